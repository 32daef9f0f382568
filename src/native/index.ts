import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { RunnerInfo } from '../engine/model-runner.js';
import { BLOCK_SIZE } from '../engine/model-runner.js';
import type { AdapterManifest } from '../model/adapter.js';
import type { ModelManifest, TensorEntry } from '../model/manifest.js';
import { cacheFolder } from '../model/resolve.js';
import type {
  DeviceChoice,
  KernelFormat,
  KernelLayout,
  KernelMatrix,
  KvChoice,
  NativeGpus,
  NativeInfo,
  Peak,
  WeightChoice,
  ZeroCount,
} from './addon-types.js';
import { checkIsa } from './isa.js';
import { loadAddon } from './load-addon.js';
import { loadError } from './native-error.js';
import { NativeRunner } from './native-runner.js';

export type {
  DeviceChoice,
  EncodedTensor,
  FloatChoice,
  Gpu,
  GpuLaunch,
  KernelFormat,
  KernelLayout,
  KernelMatrix,
  KernelVariant,
  KvChoice,
  MatrixReport,
  NativeGpus,
  NativeInfo,
  NativeLayerOptions,
  PassPrecision,
  Peak,
  RoundingChoice,
  SolverChoice,
  TokenWindows,
  WeightChoice,
  ZeroCount,
} from './addon-types.js';
export { Compression } from './compression.js';
export { createMatcher, NativeGrammars } from './grammars.js';
export { NativeRunner } from './native-runner.js';

/** KV cache where nobody says how much: eight full contexts, at most this many bytes. */
const DEFAULT_KV_BYTES = 1 << 30;

export interface NativeOptions {
  /** Where the layers are computed; 'cpu' unless said. */
  device?: DeviceChoice | undefined;
  weights: WeightChoice;
  /** Format of head and embedding; left out: as `weights`, but i8 where that is i4. */
  head?: WeightChoice | undefined;
  /** Store sparse matrices dense. */
  dense: boolean;
  kv: KvChoice;
  threads?: number | undefined;
  isa?: string | undefined;
  /** On a GPU: a row of logits does not depend on the rows beside it, bit for bit. On the CPU it never does. */
  deterministic?: boolean | undefined;
  /** Begin the next step before this one is answered; on a GPU unless said. */
  lookAhead?: boolean | undefined;
  /** GPUs that share the model; 1 unless said. */
  tensorParallel?: number | undefined;
  maxModelLen?: number | undefined;
  maxSlots: number;
  maxBatchedTokens: number;
  /** Bytes of the KV cache, on all GPUs together. */
  kvMemory?: number | undefined;
  /** Nobody asked for so much: a GPU that has less takes what it has, without a warning. */
  kvAtMost?: boolean | undefined;
  /** LoRA adapters that requests may choose by name. */
  adapters?: readonly AdapterManifest[] | undefined;
  /** Keep packed weights on disk for the next start; true unless said. */
  packedCache?: boolean | undefined;
  /** Bytes of the source (or of the packed cache) read so far. */
  onProgress?: ((done: number, total: number) => void) | undefined;
  /** Oddities that cost time, not correctness: a cache that is damaged, or cannot be written. */
  onWarning?: ((message: string) => void) | undefined;
}

/**
 * Loads a model's weights into the native engine.
 * @throws FiligreeError saying which tensor, option or resource is at fault
 */
export async function loadNativeRunner(
  manifest: ModelManifest,
  options: NativeOptions,
): Promise<NativeRunner> {
  const addon = loadAddon();
  const isa = options.isa ?? process.env.FILIGREE_ISA ?? 'auto';
  checkIsa(isa, addon.cpuInfo());
  const maxModelLen = options.maxModelLen ?? manifest.config.maxPositionEmbeddings;
  // To measure what it gains.
  const lookAhead = options.lookAhead ?? (process.env.FILIGREE_LOOK_AHEAD === '0' ? false : undefined);
  const engine = new addon.Engine();
  const started = performance.now();
  try {
    const info = await engine.load(
      manifest,
      {
        device: options.device ?? 'cpu',
        weights: options.weights,
        ...(options.head !== undefined && { head: options.head }),
        dense: options.dense,
        kv: options.kv,
        threads: options.threads ?? 0,
        isa,
        deterministic: options.deterministic ?? false,
        ...(lookAhead !== undefined && { lookAhead }),
        tensorParallel: options.tensorParallel ?? 1,
        maxModelLen,
        maxSlots: options.maxSlots,
        maxBatchedTokens: options.maxBatchedTokens,
        kvBytes: options.kvMemory ?? defaultKvBytes(manifest, options, maxModelLen),
        kvAtMost: options.kvAtMost ?? false,
        gpuPlans: options.device === 'cpu' ? '' : readGpuPlans(),
        cacheFolder: options.packedCache === false ? '' : join(cacheFolder(), 'packed'),
        adapters: options.adapters ?? [],
      },
      options.onProgress && guarded(options.onProgress),
    );
    const { workspaceBytes: _, adapterBytes: _bytes, warnings, ...figures } = info;
    for (const warning of warnings) (options.onWarning ?? warn)(warning);
    const runnerInfo: RunnerInfo = {
      ...figures,
      blockSize: BLOCK_SIZE,
      kvType: options.kv,
      loadMs: performance.now() - started,
      adapters: (options.adapters ?? []).map(({ name }) => name),
    };
    return new NativeRunner(engine, runnerInfo);
  } catch (error) {
    await engine.close();
    throw loadError(error, manifest.name);
  }
}

/** What this machine can do, and which kernels this build holds. */
export async function nativeInfo(): Promise<NativeInfo> {
  return loadAddon().cpuInfo();
}

/** The GPUs that this build can use. Looks at each, which takes a moment and some of its memory. */
export async function nativeGpus(): Promise<NativeGpus> {
  return loadAddon().gpus();
}

const GPU_PLANS = () => join(cacheFolder(), 'gpu-plans.txt');

/** Launch shapes that `bench kernels --device cuda --tune` measured on GPUs; '' where there are none. */
export function readGpuPlans(): string {
  try {
    return readFileSync(GPU_PLANS(), 'utf8');
  } catch {
    return '';
  }
}

/** A reader sees the old table or the new one. Returns where it is. */
export function writeGpuPlans(plans: string): string {
  const path = GPU_PLANS();
  mkdirSync(cacheFolder(), { recursive: true });
  writeFileSync(`${path}.${process.pid}`, plans);
  renameSync(`${path}.${process.pid}`, path);
  return path;
}

/** GB/s at which so many threads read memory, each its own part: the bound of decode. */
export function measureReadBandwidth(threads: number): Promise<number> {
  return loadAddon().measureReadBandwidth(threads);
}

/** Zeros of one tensor, counted row by row. */
export function countZeros(tensor: TensorEntry, files: string[]): Promise<ZeroCount> {
  return loadAddon().countZeros(tensor, files);
}

/** The rows of `tensors`, one after another, packed as one matrix to time kernels on; close() frees it. */
export function packKernelMatrix(
  tensors: TensorEntry[],
  files: string[],
  options: { format: KernelFormat; layout: KernelLayout; threads: number },
): Promise<KernelMatrix> {
  return loadAddon().packKernelMatrix(tensors, files, options);
}

/** Multiply-accumulates a second of the unit that `format` runs on: the bound of prefill. */
export function measurePeak(format: KernelFormat, isa: string, threads: number): Promise<Peak | null> {
  return loadAddon().measurePeak(format, isa, threads);
}

/** Rows [row, row + count) of a tensor as f32, [count][columns]. */
export function readRows(
  tensor: TensorEntry,
  files: string[],
  row: number,
  count: number,
): Promise<Float32Array> {
  return loadAddon().readRows(tensor, files, row, count);
}

/** What a token takes of the KV cache: keys and values of every layer, rows padded to 16 elements, a scale beside a row of bytes. */
export function kvBytesPerToken(config: ModelManifest['config'], kv: KvChoice): number {
  const elementBytes = { f32: 4, f16: 2, bf16: 2, i8: 1, fp8: 1 }[kv];
  const row = Math.ceil(config.headDim / 16) * 16 * elementBytes + (elementBytes === 1 ? 4 : 0);
  return 2 * config.numLayers * config.numKvHeads * row;
}

function defaultKvBytes({ config }: ModelManifest, options: NativeOptions, maxModelLen: number): number {
  const perSequence = Math.ceil(maxModelLen / BLOCK_SIZE) * BLOCK_SIZE * kvBytesPerToken(config, options.kv);
  return Math.max(perSequence, Math.min(perSequence * Math.min(8, options.maxSlots), DEFAULT_KV_BYTES));
}

/** A progress bar that throws must not stop a load. */
function guarded(onProgress: (done: number, total: number) => void): (done: number, total: number) => void {
  return (done, total) => {
    try {
      onProgress(done, total);
    } catch (error) {
      warn(`progress callback: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
}

function warn(message: string): void {
  process.emitWarning(message, { type: 'FiligreeWarning' });
}
