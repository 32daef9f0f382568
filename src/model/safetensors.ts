import { isObject, parseObject } from './fields.js';
import { decodeUtf8, invalid, type ReadableFile, unsupported } from './model-file.js';

/** A tensor as a safetensors file lists it; `offset` counts from the start of the file. */
export interface RawTensor {
  name: string;
  file: number;
  dtype: string;
  shape: number[];
  offset: number;
  bytes: number;
}

/** The limit of the reference implementation: a header is never that long, a hostile length is. */
const MAX_HEADER = 100_000_000;

const DTYPES: Record<string, { name: string; bytes: number }> = {
  F64: { name: 'f64', bytes: 8 },
  F32: { name: 'f32', bytes: 4 },
  F16: { name: 'f16', bytes: 2 },
  BF16: { name: 'bf16', bytes: 2 },
  F8_E4M3: { name: 'f8_e4m3', bytes: 1 },
  F8_E5M2: { name: 'f8_e5m2', bytes: 1 },
  I64: { name: 'i64', bytes: 8 },
  I32: { name: 'i32', bytes: 4 },
  I16: { name: 'i16', bytes: 2 },
  I8: { name: 'i8', bytes: 1 },
  U64: { name: 'u64', bytes: 8 },
  U32: { name: 'u32', bytes: 4 },
  U16: { name: 'u16', bytes: 2 },
  U8: { name: 'u8', bytes: 1 },
  BOOL: { name: 'bool', bytes: 1 },
};

/**
 * The header of a safetensors file: 8 bytes of length (little endian), JSON, then the tensors' bytes, which must fill
 * the rest of the file without gaps or overlaps.
 *
 * @returns the tensors in file order, and the header's length with its 8 bytes
 * @throws FiligreeError `model_invalid`, `model_unsupported` for an unknown dtype
 */
export function readSafetensors(
  file: ReadableFile,
  index: number,
): { tensors: RawTensor[]; headerBytes: number } {
  if (file.size < 8)
    throw invalid(`${file.name} is ${file.size} bytes long, too short for a safetensors file`);
  const length = file.read(0, 8).readBigUInt64LE();
  if (length > BigInt(Math.min(MAX_HEADER, file.size - 8))) {
    throw invalid(
      `${file.name}: its header claims ${length} bytes of a file of ${file.size}; it is truncated, damaged or not safetensors`,
    );
  }
  const text = decodeUtf8(file.read(8, Number(length)), `${file.name}: its header`);
  const where = `${file.name}: its header`;
  const entries = parseObject(text, where);
  const duplicate = duplicateKey(text);
  if (duplicate !== null) throw invalid(`${where} lists ${JSON.stringify(duplicate)} twice`);
  const start = 8 + Number(length);
  const tensors: RawTensor[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    if (name !== '__metadata__') tensors.push(readEntry(name, entry, where, start, file.size, index));
  }
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = start;
  for (const tensor of tensors) {
    if (tensor.offset !== end) {
      throw invalid(
        `${where}: ${tensor.name} ${tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap before it'}`,
      );
    }
    end += tensor.bytes;
  }
  if (end !== file.size)
    throw invalid(`${file.name} has ${file.size - end} bytes that belong to no tensor; it is damaged`);
  return { tensors, headerBytes: start };
}

function readEntry(
  name: string,
  entry: unknown,
  where: string,
  start: number,
  size: number,
  file: number,
): RawTensor {
  const label = `${where}: tensor ${JSON.stringify(name.slice(0, 200))}`;
  if (!isObject(entry)) throw invalid(`${label} is not described by an object`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string') throw invalid(`${label} has no dtype`);
  const kind = Object.hasOwn(DTYPES, dtype) ? DTYPES[dtype] : undefined;
  if (kind === undefined) throw unsupported(`${label} has dtype ${dtype.slice(0, 40)}, which is not read`);
  const isLength = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0;
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isLength))
    throw invalid(`${label} has no proper shape`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isLength)) {
    throw invalid(`${label} has no proper data_offsets`);
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > size - start)
    throw invalid(`${label} reaches to byte ${end} of ${size - start}; the file is truncated or damaged`);
  const bytes = shape.reduce((product: number, d: number) => product * d, kind.bytes);
  if (bytes !== end - begin) {
    throw invalid(
      `${label}: ${dtype} of shape [${shape}] is ${bytes} bytes, its data_offsets span ${end - begin}`,
    );
  }
  return { name, file, dtype: kind.name, shape, offset: start + begin, bytes };
}

/** The first key that stands twice at the top level: JSON.parse would silently keep the last. The text is valid JSON. */
function duplicateKey(text: string): string | null {
  const seen = new Set<string>();
  let depth = 0;
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22) {
      const begin = i;
      for (i++; text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
      if (depth !== 1 || !expectKey) continue;
      const key = JSON.parse(text.slice(begin, i + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
      expectKey = false;
    } else if (c === 0x7b || c === 0x5b) {
      if (++depth === 1) expectKey = true;
    } else if (c === 0x7d || c === 0x5d) depth--;
    else if (c === 0x2c && depth === 1) expectKey = true;
  }
  return null;
}
