import { Fields, isObject, type JsonObject } from './fields.js';
import type { Encoding, TensorEntry, TensorPart } from './manifest.js';
import { invalid, type ReadableFile, unsupported } from './model-file.js';
import type { RawTensor } from './safetensors.js';

/** What `quantization_config` says that the tensors do not show themselves. */
export interface CompressionInfo {
  /** Bits of integer codes that lie in an int8 each, where all groups agree. */
  bits: number | null;
  groupSize: number | null;
}

/** Suffixes by which compressed-tensors spreads one weight over several tensors, and the part each becomes. */
const SUFFIXES: readonly (readonly [suffix: string, part: string])[] = [
  ['.weight.compressed', 'compressed'],
  ['.weight.bitmask', 'bitmask'],
  ['.weight.row_offsets', 'row_offsets'],
  ['.weight.shape', 'shape'],
  ['.compressed', 'compressed'],
  ['.bitmask', 'bitmask'],
  ['.row_offsets', 'row_offsets'],
  ['.shape', 'shape'],
  ['.weight_packed', 'packed'],
  ['.weight_shape', 'shape'],
  ['.weight_scale', 'scale'],
  ['.weight_zero_point', 'zero_point'],
  ['.weight_g_idx', 'g_idx'],
  ['.weight_global_scale', 'global_scale'],
  ['.weight', 'weight'],
];

/** Scales of activations and caches: ours are measured at run time. */
const RUNTIME_SCALES = /\.(input|output|k|v|q)_(scale|zero_point|global_scale)$/;

const FLOATS = new Set(['f32', 'f16', 'bf16']);

/**
 * Reads `quantization_config` (or the older `compression_config`).
 *
 * @throws FiligreeError `model_unsupported` for another library's quantization
 */
export function readCompressionInfo(config: JsonObject): CompressionInfo {
  const raw = config.quantization_config ?? config.compression_config;
  if (raw === undefined || raw === null) return { bits: null, groupSize: null };
  if (!isObject(raw)) throw invalid('config.json: quantization_config must be an object');
  const fields = new Fields(raw, 'config.json: quantization_config');
  const method = fields.string('quant_method', 'compressed-tensors');
  if (method !== 'compressed-tensors' && method !== 'sparseml') {
    throw unsupported(
      `config.json: weights quantized by ${JSON.stringify(method.slice(0, 40))} are not read; use the original checkpoint, compressed-tensors or GGUF`,
    );
  }
  const schemes: Fields[] = [];
  for (const [name, group] of Object.entries(fields.child('config_groups')?.object ?? {})) {
    const weights = isObject(group) ? new Fields(group, `${fields.where}: ${name}`).child('weights') : null;
    if (weights === null) continue;
    if (weights.string('type', 'int') !== 'int') {
      throw unsupported(
        `${weights.where}: weights quantized to floating point (FP8, FP4) are not read; use an integer or 16-bit checkpoint`,
      );
    }
    schemes.push(weights);
  }
  const agreed = (key: string, max: number) => {
    // A scheme of one scale a row has no group size, and contradicts nobody's.
    const values = new Set(schemes.filter((s) => s.has(key)).map((s) => s.integer(key, -1, max)));
    const [only] = values;
    return values.size === 1 && only !== undefined && only > 0 ? only : null;
  };
  return { bits: agreed('num_bits', 64), groupSize: agreed('group_size', 1 << 22) };
}

/**
 * Joins the tensors of a folder to the weights they stand for. Names keep their module's path; a bias or a norm stays
 * as it is.
 */
export function groupTensors(
  raw: Iterable<RawTensor>,
  info: CompressionInfo,
  files: ReadableFile[],
  problems: string[],
): TensorEntry[] {
  const modules = new Map<string, Map<string, RawTensor>>();
  const entries: TensorEntry[] = [];
  let runtimeScales = 0;
  for (const tensor of raw) {
    if (RUNTIME_SCALES.test(tensor.name)) {
      runtimeScales++;
      continue;
    }
    const match = SUFFIXES.find(([suffix]) => tensor.name.endsWith(suffix));
    if (match === undefined) {
      entries.push(dense(tensor.name, tensor));
      continue;
    }
    const module = tensor.name.slice(0, -match[0].length);
    const parts = modules.get(module) ?? new Map<string, RawTensor>();
    if (parts.has(match[1]))
      throw invalid(`tensor ${tensor.name}: its module has this part twice, under two names`);
    modules.set(module, parts.set(match[1], tensor));
  }
  if (runtimeScales > 0)
    problems.push(
      `${runtimeScales} stored activation scales are not used: activations are quantized as they come`,
    );
  for (const [module, parts] of modules) entries.push(join(module, parts, info, files, problems));
  return entries;
}

function dense(name: string, tensor: RawTensor): TensorEntry {
  if (!FLOATS.has(tensor.dtype)) {
    throw unsupported(`tensor ${name} has dtype ${tensor.dtype} and no scale; f32, f16 and bf16 are read`);
  }
  return { name, shape: tensor.shape, encoding: tensor.dtype as Encoding, parts: { data: part(tensor) } };
}

function join(
  module: string,
  parts: Map<string, RawTensor>,
  info: CompressionInfo,
  files: ReadableFile[],
  problems: string[],
): TensorEntry {
  const name = `${module}.weight`;
  const forms = ['weight', 'compressed', 'packed'].filter((key) => parts.has(key));
  if (forms.length !== 1) {
    throw invalid(
      `tensor ${name}: ${forms.length === 0 ? `only its ${[...parts.keys()]} stand in the files` : `it is stored twice, as ${forms}`}`,
    );
  }
  const form = forms[0] as string;
  const values = parts.get(form) as RawTensor;
  if (parts.has('global_scale'))
    throw unsupported(`tensor ${name}: FP4 weights (weight_global_scale) are not read`);
  if (/^f8/.test(values.dtype))
    throw unsupported(`tensor ${name}: FP8 weights are not read; use an integer or 16-bit checkpoint`);
  const scaled = parts.has('scale');
  if (form === 'weight' && FLOATS.has(values.dtype)) {
    if (scaled)
      problems.push(`tensor ${name} is stored in ${values.dtype} beside a weight_scale, which is not used`);
    return dense(name, values);
  }
  const shape = form === 'weight' ? values.shape : readShape(name, parts.get('shape'), files);
  if (shape.length !== 2) throw invalid(`tensor ${name}: shape [${shape}] is not a matrix`);
  const [rows, cols] = shape as [number, number];
  const entry: TensorEntry = { name, shape, encoding: 'bitmask', parts: {} };
  const keep = (...keys: string[]) => {
    for (const key of keys) if (parts.has(key)) entry.parts[key] = part(parts.get(key) as RawTensor);
  };
  keep(form);
  if (form === 'compressed') {
    if (!parts.has('bitmask')) throw invalid(`tensor ${name}: its bitmask is missing`);
    keep('bitmask', 'row_offsets');
    const kind = parts.has('row_offsets') ? 'bitmask' : 'sparse-24-bitmask';
    if (FLOATS.has(values.dtype)) entry.encoding = kind;
    else if (values.dtype === 'i8') entry.encoding = `${kind}+int-quantized`;
    else if (values.dtype === 'u8' && kind === 'bitmask') entry.encoding = 'bitmask+pack-quantized';
    else throw unsupported(`tensor ${name}: compressed values of dtype ${values.dtype} are not read`);
  } else {
    entry.encoding = form === 'packed' ? 'pack-quantized' : 'int-quantized';
  }
  if (!entry.encoding.endsWith('quantized')) return entry;
  if (!scaled) throw invalid(`tensor ${name}: integer weights without a weight_scale`);
  keep('scale', 'zero_point', 'g_idx');
  const scales = entry.parts.scale as TensorPart;
  const count = scales.shape.reduce((a, b) => a * b, 1);
  if (count !== 1 && (count === 0 || count % rows !== 0))
    throw invalid(`tensor ${name}: ${count} scales do not fit ${rows} rows`);
  const groups = count === 1 ? 1 : count / rows;
  const fits = info.groupSize !== null && Math.ceil(cols / info.groupSize) === groups;
  entry.groupSize = groups === 1 ? 0 : fits ? (info.groupSize as number) : Math.ceil(cols / groups);
  entry.symmetric = !parts.has('zero_point');
  entry.bits = codeBits(name, entry.encoding, values, cols, info);
  return entry;
}

/** Packed codes show their width by how many words a row takes; where two widths would fit, the configuration decides. */
function codeBits(
  name: string,
  encoding: Encoding,
  values: RawTensor,
  cols: number,
  info: CompressionInfo,
): number {
  if (encoding === 'bitmask+pack-quantized') return 4;
  if (encoding !== 'pack-quantized') return info.bits !== null && info.bits <= 8 ? info.bits : 8;
  const words = values.shape.length === 2 ? values.shape[1] : undefined;
  const fitting = [4, 8, 2, 3, 5, 6, 7].filter((bits) => Math.ceil(cols / Math.floor(32 / bits)) === words);
  const bits = info.bits !== null && fitting.includes(info.bits) ? info.bits : fitting[0];
  if (bits === undefined)
    throw invalid(
      `tensor ${name}: rows of ${words} packed words do not fit ${cols} columns at any width of code`,
    );
  return bits;
}

function readShape(name: string, tensor: RawTensor | undefined, files: ReadableFile[]): number[] {
  const width = tensor?.dtype === 'i64' ? 8 : tensor?.dtype === 'i32' ? 4 : 0;
  if (tensor === undefined || width === 0 || tensor.bytes !== 2 * width) {
    throw invalid(`tensor ${name}: its stored shape is missing or not two integers`);
  }
  const bytes = (files[tensor.file] as ReadableFile).read(tensor.offset, tensor.bytes);
  const shape = [0, 1].map((i) =>
    width === 8 ? Number(bytes.readBigInt64LE(8 * i)) : bytes.readInt32LE(4 * i),
  );
  if (!shape.every((d) => d > 0 && d <= 2 ** 31))
    throw invalid(`tensor ${name}: its stored shape is [${shape}]`);
  return shape;
}

const part = (tensor: RawTensor): TensorPart => ({
  file: tensor.file,
  offset: tensor.offset,
  bytes: tensor.bytes,
  dtype: tensor.dtype,
  shape: tensor.shape,
});
