import { decodeUtf8, inRange, invalid, type ReadableFile, unsupported } from './model-file.js';

/** Numbers of an array come as a typed array, texts as texts. */
export type GgufValue = number | bigint | boolean | string | GgufArray;
export type GgufArray = string[] | boolean[] | NumericArray | GgufArray[];
type NumericArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

export interface GgufTensor {
  name: string;
  /** [rows, columns] as everywhere else; the file lists columns first. */
  shape: number[];
  type: string;
  offset: number;
  bytes: number;
}

export interface Gguf {
  version: number;
  metadata: Map<string, GgufValue>;
  tensors: GgufTensor[];
  /** Bytes before the tensors' data. */
  headerBytes: number;
}

interface BlockType {
  name: string;
  /** Elements of a row that make a block. */
  elements: number;
  /** Bytes of a block; 0: known to exist, not read by us. */
  bytes: number;
}

const plain = (name: string, bytes: number): BlockType => ({ name, elements: 1, bytes });
const block = (name: string, elements: number, bytes: number): BlockType => ({ name, elements, bytes });

/** ggml_type numbers. Types that are not read keep their name for the message. */
const TYPES: Record<number, BlockType> = {
  0: plain('f32', 4),
  1: plain('f16', 2),
  2: block('q4_0', 32, 18),
  3: block('q4_1', 32, 20),
  6: block('q5_0', 32, 22),
  7: block('q5_1', 32, 24),
  8: block('q8_0', 32, 34),
  10: block('q2_k', 256, 84),
  11: block('q3_k', 256, 110),
  12: block('q4_k', 256, 144),
  13: block('q5_k', 256, 176),
  14: block('q6_k', 256, 210),
  16: block('iq2_xxs', 256, 66),
  17: block('iq2_xs', 256, 74),
  18: block('iq3_xxs', 256, 98),
  19: block('iq1_s', 256, 50),
  20: block('iq4_nl', 32, 18),
  21: block('iq3_s', 256, 110),
  22: block('iq2_s', 256, 82),
  23: block('iq4_xs', 256, 136),
  24: plain('i8', 1),
  25: plain('i16', 2),
  26: plain('i32', 4),
  27: plain('i64', 8),
  28: plain('f64', 8),
  29: block('iq1_m', 256, 56),
  30: plain('bf16', 2),
  34: block('tq1_0', 256, 54),
  35: block('tq2_0', 256, 66),
  39: block('mxfp4', 32, 17),
};

/** Encodings that native/formats reads. */
export const READABLE_TYPES: ReadonlySet<string> = new Set([
  ...['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_1', 'q5_0', 'q5_1', 'q4_k', 'q5_k', 'q6_k'],
]);

const STRING = 8;
const ARRAY = 9;
/** Value types: bytes each, and how one is read. */
const SCALARS: Record<number, { bytes: number; read: (b: Buffer, at: number) => number | bigint | boolean }> =
  {
    0: { bytes: 1, read: (b, at) => b.readUInt8(at) },
    1: { bytes: 1, read: (b, at) => b.readInt8(at) },
    2: { bytes: 2, read: (b, at) => b.readUInt16LE(at) },
    3: { bytes: 2, read: (b, at) => b.readInt16LE(at) },
    4: { bytes: 4, read: (b, at) => b.readUInt32LE(at) },
    5: { bytes: 4, read: (b, at) => b.readInt32LE(at) },
    6: { bytes: 4, read: (b, at) => b.readFloatLE(at) },
    7: { bytes: 1, read: (b, at) => b.readUInt8(at) !== 0 },
    10: { bytes: 8, read: (b, at) => b.readBigUInt64LE(at) },
    11: { bytes: 8, read: (b, at) => b.readBigInt64LE(at) },
    12: { bytes: 8, read: (b, at) => b.readDoubleLE(at) },
  };

const TYPED_ARRAYS: Record<number, new (buffer: ArrayBuffer) => NumericArray> = {
  0: Uint8Array,
  1: Int8Array,
  2: Uint16Array,
  3: Int16Array,
  4: Uint32Array,
  5: Int32Array,
  6: Float32Array,
  10: BigUint64Array,
  11: BigInt64Array,
  12: Float64Array,
};

const WINDOW = 1 << 20;
/** Metadata of real models is below 20 MB; a length beyond this is a lie. */
const MAX_HEADER = 1 << 29;
const MAX_COUNT = 1 << 20;
const MAX_DEPTH = 4;
const MAX_NAME = 1 << 16;

/** Walks a file forward through a window, so that a header of unknown length is read once and never beyond its end. */
class Cursor {
  position = 0;
  private window: Buffer = Buffer.alloc(0);
  private windowStart = 0;

  constructor(private readonly file: ReadableFile) {}

  /** The next `n` bytes, valid until the following call. */
  take(n: number): Buffer {
    const at = this.pass(n);
    return this.window.subarray(at, at + n);
  }

  /** Passes over the next `n` bytes. @returns where in the window they lie */
  private pass(n: number): number {
    const at = this.position - this.windowStart;
    if (at + n > this.window.length) {
      this.refill(n);
      return 0;
    }
    this.position += n;
    return at;
  }

  private refill(n: number): void {
    if (n > this.file.size - this.position)
      throw invalid(`${this.file.name} ends in the middle of its header; it is truncated or damaged`);
    if (this.position + n > MAX_HEADER)
      throw invalid(`${this.file.name}: its header is longer than ${MAX_HEADER} bytes; it is damaged`);
    this.windowStart = this.position;
    this.window = this.file.read(
      this.position,
      Math.min(Math.max(n, WINDOW), this.file.size - this.position),
    );
    this.position += n;
  }

  u32(): number {
    const at = this.pass(4);
    return this.window.readUInt32LE(at);
  }

  /** A 64-bit count or offset. */
  u64(what: string): number {
    // A header holds hundreds of thousands of these: no BigInt for each.
    const at = this.pass(8);
    const value = this.window.readUInt32LE(at) + this.window.readUInt32LE(at + 4) * 2 ** 32;
    if (value > Number.MAX_SAFE_INTEGER)
      throw invalid(`${this.file.name}: ${what} is ${this.window.readBigUInt64LE(at)}; the file is damaged`);
    return value;
  }

  string(what: string, limit = MAX_HEADER): string {
    const length = this.u64(`the length of ${what}`);
    if (length > limit)
      throw invalid(`${this.file.name}: ${what} claims ${length} bytes; the file is damaged`);
    const at = this.pass(length);
    return this.window.toString('utf8', at, at + length);
  }

  value(type: number, what: string, depth = 0): GgufValue {
    if (type === STRING) return this.string(what);
    if (type === ARRAY) return this.array(what, depth + 1);
    const scalar = SCALARS[type];
    if (scalar === undefined)
      throw invalid(`${this.file.name}: ${what} has the unknown type ${type}; the file is damaged`);
    return scalar.read(this.take(scalar.bytes), 0);
  }

  private array(what: string, depth: number): GgufArray {
    if (depth > MAX_DEPTH) throw invalid(`${this.file.name}: ${what} is nested too deeply`);
    const type = this.u32();
    const count = this.u64(`the length of ${what}`);
    // Every element takes at least this much, so a lying count is found before anything is allocated.
    const least = type === STRING ? 8 : type === ARRAY ? 12 : (SCALARS[type]?.bytes ?? 0);
    if (least === 0)
      throw invalid(`${this.file.name}: ${what} is a list of the unknown type ${type}; the file is damaged`);
    if (count > (this.file.size - this.position) / least) {
      throw invalid(
        `${this.file.name}: ${what} claims ${count} elements, more than the file holds; it is truncated or damaged`,
      );
    }
    const Typed = TYPED_ARRAYS[type];
    if (Typed !== undefined) {
      const bytes = this.take(count * least);
      return new Typed(new Uint8Array(bytes).buffer);
    }
    const values: GgufValue[] = [];
    for (let i = 0; i < count; i++) values.push(this.value(type, what, depth));
    return values as GgufArray;
  }
}

/**
 * The header of a little-endian GGUF file of version 2 or 3: metadata and where each tensor lies. Every tensor's range
 * is within the file, aligned, and overlaps no other.
 *
 * @throws FiligreeError `model_invalid`, `model_unsupported` for other versions and byte orders
 */
export function readGguf(file: ReadableFile): Gguf {
  if (file.size < 24 || file.read(0, 4).toString('latin1') !== 'GGUF')
    throw invalid(`${file.name} does not begin like a GGUF file`);
  const cursor = new Cursor(file);
  cursor.take(4);
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    const swapped = (version & 0xffff) === 0 && version !== 0;
    throw unsupported(
      swapped
        ? `${file.name} is a big-endian GGUF file, which is not read; convert it to little-endian`
        : `${file.name} is GGUF version ${version}; versions 2 and 3 are read, convert it with a current llama.cpp`,
    );
  }
  const tensorCount = cursor.u64('the number of tensors');
  const metadataCount = cursor.u64('the number of metadata entries');
  if (tensorCount > MAX_COUNT || metadataCount > MAX_COUNT) {
    throw invalid(
      `${file.name} claims ${tensorCount} tensors and ${metadataCount} metadata entries; it is damaged`,
    );
  }
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = cursor.string('a metadata key', MAX_NAME);
    if (metadata.has(key))
      throw invalid(`${file.name}: metadata ${key} stands there twice; the file is damaged`);
    metadata.set(key, cursor.value(cursor.u32(), `metadata ${key.slice(0, 100)}`));
  }
  const tensors: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) tensors.push(readTensorInfo(cursor, file));
  const alignment = readAlignment(metadata, file);
  const start = Math.ceil(cursor.position / alignment) * alignment;
  placeTensors(tensors, start, alignment, file);
  return { version, metadata, tensors, headerBytes: cursor.position };
}

function readTensorInfo(cursor: Cursor, file: ReadableFile): GgufTensor {
  const length = cursor.u64("the length of a tensor's name");
  if (length > MAX_NAME)
    throw invalid(`${file.name}: a tensor's name claims ${length} bytes; the file is damaged`);
  const name = decodeUtf8(cursor.take(length), `${file.name}: a tensor's name`);
  const label = `${file.name}: tensor ${name.slice(0, 200)}`;
  const rank = cursor.u32();
  if (rank < 1 || rank > 4) throw invalid(`${label} has ${rank} dimensions; the file is damaged`);
  const shape: number[] = [];
  for (let d = 0; d < rank; d++) shape.unshift(cursor.u64(`a dimension of tensor ${name.slice(0, 200)}`));
  // ggml counts trailing dimensions of 1 as absent.
  while (shape.length > 1 && shape[0] === 1) shape.shift();
  const typeId = cursor.u32();
  const type = TYPES[typeId];
  if (type === undefined)
    throw unsupported(
      `${label} has the unknown type ${typeId}; this file is newer than what is read, or damaged`,
    );
  const offset = cursor.u64(`the offset of tensor ${name.slice(0, 200)}`);
  const columns = shape.at(-1) as number;
  if (columns % type.elements !== 0)
    throw invalid(`${label}: rows of ${columns} are not whole ${type.name} blocks of ${type.elements}`);
  const bytes = shape
    .slice(0, -1)
    .reduce((product, d) => product * d, (columns / type.elements) * type.bytes);
  if (!Number.isSafeInteger(bytes) || bytes === 0)
    throw invalid(`${label} has shape [${shape}]; the file is damaged`);
  return { name, shape, type: type.name, offset, bytes };
}

function readAlignment(metadata: Map<string, GgufValue>, file: ReadableFile): number {
  const alignment = metadata.get('general.alignment') ?? 32;
  if (
    typeof alignment !== 'number' ||
    alignment < 1 ||
    alignment > 1 << 20 ||
    (alignment & (alignment - 1)) !== 0
  ) {
    throw invalid(
      `${file.name}: general.alignment is ${String(alignment).slice(0, 40)}, which is not a power of two up to 2^20`,
    );
  }
  return alignment;
}

/** Turns offsets within the data into offsets within the file, checking each. */
function placeTensors(tensors: GgufTensor[], start: number, alignment: number, file: ReadableFile): void {
  const names = new Set<string>();
  for (const tensor of tensors) {
    if (names.has(tensor.name))
      throw invalid(`${file.name}: tensor ${tensor.name} stands there twice; the file is damaged`);
    names.add(tensor.name);
    if (tensor.offset % alignment !== 0)
      throw invalid(`${file.name}: tensor ${tensor.name} is not aligned; the file is damaged`);
    tensor.offset += start;
    if (!inRange(tensor.offset, tensor.bytes, file.size)) {
      throw invalid(
        `${file.name}: tensor ${tensor.name} reaches to byte ${tensor.offset + tensor.bytes} of ${file.size}; the download is incomplete or damaged`,
      );
    }
  }
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset);
  for (const [i, tensor] of ordered.entries()) {
    const before = ordered[i - 1];
    if (before !== undefined && before.offset + before.bytes > tensor.offset) {
      throw invalid(`${file.name}: tensors ${before.name} and ${tensor.name} overlap; the file is damaged`);
    }
  }
}
