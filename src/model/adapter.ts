import { existsSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { FiligreeError } from '../errors.js';
import { readAdapterConfig } from './adapter-config.js';
import { parseObject } from './fields.js';
import type { ModelConfig, ModelManifest, TensorEntry } from './manifest.js';
import { invalid, ReadableFile, readText, unsupported } from './model-file.js';
import { type RawTensor, readSafetensors } from './safetensors.js';

/** Matrices that an adapter may change. */
export const ADAPTER_TARGETS = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;
export type AdapterTarget = (typeof ADAPTER_TARGETS)[number];

/** One matrix that an adapter changes: W + scale · B A, A [rank, columns], B [rows, rank]. */
export interface AdapterPair {
  layer: number;
  target: AdapterTarget;
  scale: number;
  a: TensorEntry;
  b: TensorEntry;
}

/** A LoRA adapter where it lies on disk; like a model's manifest it holds positions, never weights. */
export interface AdapterManifest {
  /** What requests call it. */
  name: string;
  path: string;
  files: string[];
  pairs: AdapterPair[];
  /** The largest rank of its matrices. */
  rank: number;
  /** At most what it takes in memory. */
  bytes: number;
  /** Oddities that do not prevent it from being served. */
  problems: string[];
}

const WEIGHTS = 'adapter_model.safetensors';
const MAX_CONFIG_BYTES = 1 << 20;
const KEY =
  /^base_model\.model\.(model\.layers\.(\d{1,6})\.(?:self_attn\.(?:q|k|v|o)|mlp\.(?:gate|up|down))_proj)\.lora_(A|B)\.weight$/;
const DTYPES = ['f32', 'f16', 'bf16'];

/**
 * Opens a LoRA adapter as PEFT writes it, adapter_config.json and adapter_model.safetensors, and checks all of it against
 * the model it is to change.
 *
 * @throws FiligreeError `model_missing`, `model_invalid`, `model_unsupported` or `io_error`, naming the adapter, what is wrong
 *   and what to do
 */
export function openAdapter(name: string, folder: string, model: ModelManifest): AdapterManifest {
  try {
    return read(name, resolve(folder), model);
  } catch (error) {
    if (!(error instanceof FiligreeError)) throw error;
    throw new FiligreeError(error.code, `adapter ${name}: ${error.message}`, { cause: error });
  }
}

function read(name: string, path: string, model: ModelManifest): AdapterManifest {
  if (!existsSync(path) || !statSync(path).isDirectory())
    throw new FiligreeError('model_missing', `there is no folder ${path}`);
  if (!existsSync(join(path, 'adapter_config.json')))
    throw invalid(`${path} holds no adapter_config.json; it is not an adapter that PEFT saved`);
  const config = readAdapterConfig(
    parseObject(readText(join(path, 'adapter_config.json'), MAX_CONFIG_BYTES), 'adapter_config.json'),
  );
  if (!existsSync(join(path, WEIGHTS)))
    throw invalid(
      existsSync(join(path, 'adapter_model.bin'))
        ? `${path} holds adapter_model.bin, which can run code when opened and is not read; save it as safetensors`
        : `${path} holds no ${WEIGHTS}; the download is incomplete`,
    );
  const file = ReadableFile.open(join(path, WEIGHTS));
  let tensors: RawTensor[];
  try {
    tensors = readSafetensors(file, 0).tensors;
  } finally {
    file.close();
  }
  const pairs: AdapterPair[] = [];
  const modules = pairUp(tensors);
  let rank = 0;
  let bytes = 0;
  for (const [module, { layer, target, a, b }] of modules) {
    const stated = config.of(module);
    const { rows, columns } = targetShape(target, model.config);
    if (layer >= model.config.numLayers)
      throw invalid(`tensor ${a.name}: the model has ${model.config.numLayers} layers`);
    expectShape(a, [stated.rank, columns]);
    expectShape(b, [rows, stated.rank]);
    rank = Math.max(rank, stated.rank);
    bytes += 4 * (Math.ceil(stated.rank / 16) * 16 * columns + (rows + 16) * stated.rank);
    pairs.push({ layer, target, scale: stated.scale, a: entryOf(a), b: entryOf(b) });
  }
  if (pairs.length === 0) throw invalid(`${WEIGHTS} holds no tensors`);
  for (const wanted of config.targets ?? []) {
    if ([...modules.keys()].some((module) => module === wanted || module.endsWith(`.${wanted}`))) continue;
    throw ADAPTER_TARGETS.includes(wanted.split('.').at(-1) as AdapterTarget)
      ? invalid(`adapter_config.json names ${wanted}, but ${WEIGHTS} holds no tensors of it`)
      : unsupported(unservable(wanted));
  }
  const problems: string[] = [];
  const base = config.base?.replace(/[/\\]+$/, '') ?? '';
  if (base !== '' && basename(base).toLowerCase() !== model.name.toLowerCase())
    problems.push(`it says it was trained on ${base}; the model is ${model.name}`);
  return { name, path, files: [file.info.path], pairs, rank, bytes, problems };
}

interface Module {
  layer: number;
  target: AdapterTarget;
  a: RawTensor;
  b: RawTensor;
}

/** A and B of every module, by the module's path. */
function pairUp(tensors: RawTensor[]): Map<string, Module> {
  const found = new Map<string, Partial<Module> & Pick<Module, 'layer' | 'target'>>();
  for (const tensor of tensors) {
    const [, module, layer, side] = KEY.exec(tensor.name) ?? [];
    if (module === undefined) throw unknownTensor(tensor.name);
    if (!DTYPES.includes(tensor.dtype))
      throw unsupported(`tensor ${tensor.name} has dtype ${tensor.dtype}; F32, F16 and BF16 are read`);
    const known = found.get(module) ?? {
      layer: Number(layer),
      target: module.split('.').at(-1) as AdapterTarget,
    };
    known[side === 'A' ? 'a' : 'b'] = tensor;
    found.set(module, known);
  }
  for (const [module, { a, b }] of found) {
    if (a !== undefined && b !== undefined) continue;
    const missing = `base_model.model.${module}.lora_${a === undefined ? 'A' : 'B'}.weight`;
    throw invalid(`tensor ${missing} is missing; the file is incomplete`);
  }
  return found as Map<string, Module>;
}

const unservable = (module: string) =>
  `it changes ${module.slice(0, 200)}; only ${ADAPTER_TARGETS.join(', ')} of the layers can be changed`;

function unknownTensor(name: string): FiligreeError {
  if (name.includes('lora_magnitude_vector'))
    return unsupported(`tensor ${name.slice(0, 200)} is one of DoRA, which is not served`);
  const [, module] = /^base_model\.model\.(.+?)\.lora_/.exec(name) ?? [];
  return unsupported(
    module === undefined ? `tensor ${name.slice(0, 200)} is not one of a LoRA adapter` : unservable(module),
  );
}

/** Rows and columns of the matrix that an adapter changes. */
export function targetShape(target: AdapterTarget, c: ModelConfig): { rows: number; columns: number } {
  const q = c.numHeads * c.headDim;
  const kv = c.numKvHeads * c.headDim;
  switch (target) {
    case 'q_proj':
      return { rows: q, columns: c.hiddenSize };
    case 'k_proj':
    case 'v_proj':
      return { rows: kv, columns: c.hiddenSize };
    case 'o_proj':
      return { rows: c.hiddenSize, columns: q };
    case 'gate_proj':
    case 'up_proj':
      return { rows: c.intermediateSize, columns: c.hiddenSize };
    case 'down_proj':
      return { rows: c.hiddenSize, columns: c.intermediateSize };
  }
}

function expectShape({ name, shape }: RawTensor, [rows, columns]: [number, number]): void {
  if (shape.length === 2 && shape[0] === rows && shape[1] === columns) return;
  throw invalid(
    `tensor ${name} has shape [${shape}]; the model and adapter_config.json call for [${rows},${columns}]`,
  );
}

const entryOf = ({ name, shape, dtype, file, offset, bytes }: RawTensor): TensorEntry => ({
  name,
  shape,
  encoding: dtype as 'f32' | 'f16' | 'bf16',
  parts: { data: { file, offset, bytes, dtype, shape } },
});
