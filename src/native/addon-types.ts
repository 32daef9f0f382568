/**
 * What the native addon exports: the JS side of native/binding. Every value is checked there again; a wrong one throws
 * a TypeError or RangeError that names it, and failures of the engine are Errors with one of `NativeErrorCode`.
 */
import type { Grammar, RunnerInfo, SamplingParams } from '../engine/model-runner.js';
import type { AdapterManifest } from '../model/adapter.js';
import type { ModelManifest, TensorEntry } from '../model/manifest.js';

export type NativeErrorCode =
  | 'invalid_argument'
  | 'corrupt_data'
  | 'io'
  | 'out_of_memory'
  | 'unsupported'
  | 'internal';

export type WeightChoice = 'auto' | 'f32' | 'bf16' | 'i8' | 'i4';
export type DeviceChoice = 'auto' | 'cpu' | 'cuda';
/** i8 and fp8 with a scale for each position and head; fp8 on a GPU only. */
export type KvChoice = 'f32' | 'f16' | 'bf16' | 'i8' | 'fp8';

export interface NativeEngineOptions {
  device: DeviceChoice;
  weights: WeightChoice;
  /** Head and embedding; left out: as `weights`, but i8 where that is i4. */
  head?: WeightChoice;
  dense: boolean;
  kv: KvChoice;
  /** 0: what affinity and the control group's quota grant. */
  threads: number;
  isa: string;
  deterministic?: boolean;
  /** Begin the next step before this one is answered; left out: on a GPU. */
  lookAhead?: boolean;
  /** GPUs that share the model; 1 unless said. */
  tensorParallel?: number;
  maxModelLen: number;
  maxSlots: number;
  maxBatchedTokens: number;
  kvBytes: number;
  /** Nobody asked for so much: a GPU that has less takes what it has, without a warning. */
  kvAtMost?: boolean;
  /** Launch shapes of GPUs that were measured, as KernelMatrix.tune() gives them. */
  gpuPlans?: string;
  /** Folder of packed weights; '' turns the cache off. */
  cacheFolder: string;
  /** LoRA adapters, in the order that openSlot counts them; on the CPU only. */
  adapters?: readonly Pick<AdapterManifest, 'name' | 'files' | 'pairs'>[];
}

/** The runner's figures as the engine knows them; native/index.ts adds what only the caller knows. */
export interface NativeEngineInfo extends Omit<RunnerInfo, 'blockSize' | 'kvType' | 'loadMs' | 'adapters'> {
  workspaceBytes: number;
  adapterBytes: number;
  warnings: string[];
}

/** Numbers of one entry in `NativeStepResult.outputs`, in this order. */
export const OUTPUT_FIELDS = [
  'token',
  'status',
  'top',
  'topBegin',
  'promptRows',
  'promptK',
  'promptBegin',
  'promptTopBegin',
  'pooled',
  'forced',
  'forcedBegin',
] as const;

/** `status` of an output. */
export const ROW_STATUS = { ok: 0, nonFiniteLogits: 1, noTokenAllowed: 2, constraintFailed: 3 } as const;

export interface NativeStepResult {
  /** [entries][OUTPUT_FIELDS] */
  outputs: Int32Array;
  /** [entries] */
  logprobs: Float32Array;
  topIds: Int32Array;
  topLogprobs: Float32Array;
  promptLogprobs: Float32Array;
  promptTopIds: Int32Array;
  promptTopLogprobs: Float32Array;
  /** [entries whose prompt ends here and is pooled][hidden]; an output's `pooled` is its row, or -1. */
  pooled: Float32Array;
  forcedTokens: Int32Array;
  /** [sampled entries][vocabulary], only with `keepLogits`. */
  logits: Float32Array;
  /** Entries that the step before had begun. */
  ahead: number;
  /** Milliseconds the step took on the engine's thread. */
  computeMs: number;
}

export interface NativeEngine {
  load(
    manifest: Pick<ModelManifest, 'config' | 'files' | 'tensors' | 'sourceKey'>,
    options: NativeEngineOptions,
    onProgress?: (done: number, total: number) => void,
  ): Promise<NativeEngineInfo>;
  /** @param adapter index into the engine's adapters; -1 or left out: the base alone */
  openSlot(
    slot: number,
    params: SamplingParams,
    prompt: Int32Array,
    output: Int32Array,
    adapter?: number,
  ): void;
  closeSlot(slot: number): void;
  /** The step after the one in flight will have other entries than announced: it is not begun ahead. */
  hold(): void;
  /**
   * @param entries five numbers each: slot, position, number of tokens, number of blocks, 1 to sample (2: and likely to go on)
   * @param tokens of all entries, one after the other
   * @param blocks of all entries, one after the other
   * @param copies two numbers each: from, to
   */
  step(
    entries: Int32Array,
    tokens: Int32Array,
    blocks: Int32Array,
    copies: Int32Array,
    keepLogits?: boolean,
  ): Promise<NativeStepResult>;
  close(): Promise<void>;
}

export interface KernelVariant {
  name: string;
  isa: string;
  format: string;
  layout: string;
  minTokens: number;
  maxTokens: number;
  /** Whether this processor can run it. */
  supported: boolean;
}

export interface NativeInfo {
  cpu: string;
  features: Record<string, boolean>;
  /** Names that `--isa` takes on this machine. */
  isas: string[];
  bestIsa: string;
  affinityCpus: number;
  defaultThreads: number;
  /** Linear kernels of this build, best first. */
  kernels: KernelVariant[];
  /** Why this build cannot use a GPU of this machine; null where it can. */
  cudaObstacle: string | null;
}

export interface Gpu {
  name: string;
  computeCapability: string;
  totalBytes: number;
  freeBytes: number;
  /** Of the free ones, what weights and KV cache may take. */
  usableBytes: number;
}

export interface NativeGpus {
  /** Those that this build can use. */
  gpus: Gpu[];
  /** Why a model cannot be divided among several; null where it can. */
  ncclObstacle: string | null;
}

export interface ZeroCount {
  zeros: number;
  total: number;
}

export type KernelFormat = 'f32' | 'bf16' | 'i8' | 'i4g32' | 'i4g128';
export type KernelLayout = 'dense' | 'bitmask' | 'slots16' | 'slots8' | 'pairs';

/** A packed matrix held to time kernels on it. */
export interface KernelMatrix {
  rows: number;
  cols: number;
  /** Elements stored: the nonzeros, or all of a dense layout. */
  stored: number;
  bytes: number;
  /** Median seconds of one product with `tokens` random activations over `rounds` after one to warm up. */
  measure(kernel: string, tokens: number, rounds: number): Promise<number>;
  /**
   * On the first GPU: what launch shapes cost for 8, 16 and 32 tokens of this dense matrix. `plans` is the table of those that
   * were measured before, '' where there is none; it comes back with those that are faster than planned.
   */
  tune(plans: string): Promise<{ launches: GpuLaunch[]; plans: string }>;
  /** Frees the matrix; waits for a measurement in flight. */
  close(): void;
}

export interface GpuLaunch {
  tokens: number;
  plannedUs: number;
  bestUs: number;
  layout: string;
}

export interface Peak {
  /** Multiply-accumulates a second of all threads. */
  macsPerSecond: number;
  instruction: string;
}

/** Token ids of `ids.length / length` windows, one after the other. */
export interface TokenWindows {
  length: number;
  ids: Int32Array;
}

/**
 * What projections multiply in a calibration pass, and X^T X of: f32; inputs and weights rounded to bf16; or 16-bit integers under a
 * scale for each 256 columns of a row.
 */
export type PassPrecision = 'f32' | 'bf16' | 'i16';
export type FloatChoice = 'f32' | 'f16' | 'bf16';
/** `search` is the engine's own rule when it loads floating-point weights, `nearest` that of models/recipes/quantize.py. */
export type RoundingChoice = 'gptq' | 'nearest' | 'search';
export type SolverChoice = 'none' | 'magnitude' | 'wanda' | 'sparsegpt' | 'alps';

export interface NativeCompressionOptions {
  threads: number;
  isa: string;
  precision: PassPrecision;
  /** Bytes to stay within, 0 for no bound; hidden states that do not fit go to a file in spillFolder. */
  memory: number;
  spillFolder: string;
  calibration?: TokenWindows;
  heldOut?: TokenWindows;
  /** Also the held-out text's perplexity under the model as it was; true unless said. */
  judgeOriginal?: boolean;
  /** A model of the same shape whose zeros `keepMask` takes over. */
  mask?: Pick<ModelManifest, 'config' | 'files' | 'tensors' | 'sourceKey'>;
}

export interface NativeLayerOptions {
  solver: SolverChoice;
  /** `keep` of every `of` columns; of 0: any zeros. */
  keep: number;
  of: number;
  /** Neighbouring columns that are zero together. */
  block: number;
  /** Zeros of q, k, v, o, gate, up, down. */
  sparsity: number[];
  /** Matrices that are left as they are, in the same order. */
  skip: boolean[];
  keepMask: boolean;
  damping: number;
  bits: 0 | 4 | 8;
  group: number;
  rounding: RoundingChoice;
  smooth: number;
  dtype: FloatChoice;
}

/** A tensor as safetensors stores it. */
export interface EncodedTensor {
  name: string;
  dtype: string;
  shape: number[];
  data: Buffer;
}

export interface MatrixReport {
  name: string;
  rows: number;
  cols: number;
  zeros: number;
  /** Relative squared error of the output over the calibration inputs, after pruning and at the end; null if not measured. */
  errorPruned: number | null;
  error: number | null;
  /** Share of the mean diagonal that was added to the Hessian. */
  damping: number;
  /** Input columns that are always zero. */
  dead: number;
  iterations: number;
  seconds: number;
}

export interface NativeCompression {
  open(
    manifest: Pick<ModelManifest, 'config' | 'files' | 'tensors' | 'sourceKey'>,
    options: NativeCompressionOptions,
  ): Promise<{ layerBytes: number }>;
  vocabulary(
    name: string,
    options: { bits: 0 | 4 | 8; group: number; rounding: RoundingChoice; dtype: FloatChoice },
  ): Promise<EncodedTensor[]>;
  /** The next layer. */
  layer(
    options: NativeLayerOptions,
    onProgress?: (stage: string, share: number) => void,
  ): Promise<{ reports: MatrixReport[]; tensors: EncodedTensor[] }>;
  /** The next layer as an earlier run finished it. */
  restore(tensors: TensorEntry[], files: string[]): Promise<void>;
  /** How the next layer would fare, left as it is. */
  probe(options: NativeLayerOptions): Promise<{ error: number[]; outliers: number[] }>;
  finalNorm(): Promise<EncodedTensor[]>;
  /** Of the held-out windows, before and after; zeros without any. */
  perplexity(): Promise<{ before: number; after: number; tokens: number }>;
  close(): Promise<void>;
}

export interface NativeVocabulary {
  compile(program: Int32Array): Promise<NativeGrammar>;
}

export interface NativeGrammar extends Grammar {
  /** What has been built of it so far. */
  statistics(): { states: number; stacks: number; masks: number };
}

/** One text under a grammar, without an engine. */
export interface NativeMatcher {
  /** One bit a token, 32 to a word. */
  mask(): Uint32Array;
  /** False, and nothing changes, for a token that is not allowed. */
  accept(token: number): boolean;
  /** Whether `accept` would. */
  probe(token: number): boolean;
  /** Accepts and returns tokens that are the only way on, at most `most`. */
  forced(most: number): Int32Array;
  readonly complete: boolean;
  /** Nothing but the end may follow. */
  readonly exhausted: boolean;
}

export interface NativeAddon {
  createVocabulary(
    bytes: Uint8Array,
    offsets: Int32Array,
    control: Int32Array,
    ends: Int32Array,
    stripsLeadingSpace: boolean,
  ): Promise<NativeVocabulary>;
  Matcher: new (grammar: Grammar, continuation?: boolean) => NativeMatcher;
  Engine: new () => NativeEngine;
  Compression: new () => NativeCompression;
  cpuInfo(): NativeInfo;
  /** Looks at every GPU, which takes a moment and some of their memory. */
  gpus(): NativeGpus;
  /** GB/s at which so many threads read memory, each its own bytes (256 MiB). */
  measureReadBandwidth(threads: number, bytesPerThread?: number, rounds?: number): Promise<number>;
  countZeros(tensor: TensorEntry, files: string[]): Promise<ZeroCount>;
  /** Packs the rows of `tensors`, one after another, as one matrix. */
  packKernelMatrix(
    tensors: TensorEntry[],
    files: string[],
    options: { format: KernelFormat; layout: KernelLayout; threads: number },
  ): Promise<KernelMatrix>;
  /** The multiply unit that `format` runs on, on registers alone; null where only scalar code runs. */
  measurePeak(format: KernelFormat, isa: string, threads: number): Promise<Peak | null>;
  /** Rows [row, row + count) of a tensor as f32, [count][columns]. */
  readRows(tensor: TensorEntry, files: string[], row: number, count: number): Promise<Float32Array>;
}
