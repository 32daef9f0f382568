import { availableMemory, planGpuKv, planKv } from '../config.js';
import type { ModelRunner } from '../engine/model-runner.js';
import type { AdapterManifest, ModelManifest } from '../model/index.js';
import type { Gpu } from '../native/index.js';
import type { ChatTemplate, Tokenizer } from '../tokenizer/index.js';
import type { ModelOptions } from './options.js';
import { loadProgress } from './progress.js';

/** A model that is ready to run, as every command which runs one needs it. */
export interface LoadedModel {
  manifest: ModelManifest;
  runner: ModelRunner;
  tokenizer: Tokenizer;
  /** Null where the model has none. */
  template: ChatTemplate | null;
  /** End-of-sequence ids of the configuration and of the tokenizer. */
  eosTokenIds: number[];
  /** LoRA adapters that requests may choose. */
  adapters: AdapterManifest[];
}

export interface EngineSize {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  /** Sequences of full length that the KV cache has room for by default; left out: all that run at once. */
  kvSequences?: number;
}

const WEIGHT_BYTES = { f32: 4, bf16: 2, i8: 1.05, i4: 0.65 };
const CLASS_FORMAT = { float: 'bf16', '8bit': 'i8', '4bit': 'i4' } as const;

/** What the weights take at most: as if all were dense, and as i8 at least where the format is smaller. */
function weightBound(manifest: ModelManifest, weights: ModelOptions['weights']): number {
  const format = weights === 'auto' ? CLASS_FORMAT[manifest.sourceClass] : weights;
  const elements = manifest.tensors.reduce(
    (sum, t) => sum + t.shape.reduce((product, n) => product * n, 1),
    0,
  );
  return elements * WEIGHT_BYTES[format] * 1.15;
}

/** Memory that a model divided among so many GPUs may take; null where there are none to take. */
function gpuMemory(gpus: readonly Gpu[], share: number): number | null {
  if (gpus.length < share) return null;
  return share * Math.min(...gpus.slice(0, share).map((gpu) => gpu.usableBytes));
}

/**
 * Opens and loads a model.
 * @throws FiligreeError that says what is wrong with the model, the flags or the machine
 */
export async function loadModel(
  name: string | undefined,
  options: ModelOptions,
  size: EngineSize,
): Promise<LoadedModel> {
  const [
    { openAdapter, openModel, resolveModel },
    { kvBytesPerToken, loadNativeRunner, nativeGpus },
    tokenizers,
  ] = await Promise.all([
    import('../model/index.js'),
    import('../native/index.js'),
    import('../tokenizer/index.js'),
  ]);
  const manifest = await openModel(await resolveModel(name));
  const { config } = manifest;
  const adapters = (options.lora ?? []).map(({ name, path }) => openAdapter(name, path, manifest));
  // The engine decides alike, and says what is wrong where a GPU was asked for and there is none.
  const wanted = options.device === 'cuda' || (options.device === 'auto' && adapters.length === 0);
  const gpuBytes = wanted ? gpuMemory((await nativeGpus()).gpus, options.tensorParallel ?? 1) : null;
  const plan = (gpuBytes === null ? planKv : planGpuKv)({
    bytesPerToken: kvBytesPerToken(config, options.kv),
    blockTokens: 16,
    maxNumSeqs: size.kvSequences ?? size.maxNumSeqs,
    maxPositions: config.maxPositionEmbeddings,
    maxModelLen: options.maxModelLen,
    kvMemory: options.kvMemory,
    available: gpuBytes ?? availableMemory(),
    weightBytes:
      weightBound(manifest, options.weights) + adapters.reduce((sum, adapter) => sum + adapter.bytes, 0),
  });
  const progress = loadProgress(manifest.name);
  // The weights load on the engine's thread; meanwhile this one reads the tokenizer.
  const loading = loadNativeRunner(manifest, {
    device: options.device,
    weights: options.weights,
    dense: options.dense ?? false,
    kv: options.kv,
    ...(options.threads !== undefined && { threads: options.threads }),
    ...(options.isa !== undefined && { isa: options.isa }),
    ...(options.deterministic !== undefined && { deterministic: options.deterministic }),
    ...(options.tensorParallel !== undefined && { tensorParallel: options.tensorParallel }),
    maxModelLen: plan.maxModelLen,
    kvMemory: plan.kvMemory,
    kvAtMost: gpuBytes !== null && options.kvMemory === undefined,
    maxSlots: size.maxNumSeqs,
    maxBatchedTokens: size.maxNumBatchedTokens,
    packedCache: options.packedCache,
    adapters,
    onProgress: progress.update,
  });
  loading.catch(() => {});
  try {
    const tokenizer = tokenizers.Tokenizer.create(manifest.tokenizer);
    const template =
      manifest.chatTemplate === null
        ? null
        : tokenizers.ChatTemplate.create(manifest.chatTemplate, tokenizer, {
            trustSpecial: options.trustSpecialTokens ?? false,
          });
    const runner = await loading;
    const eos = [...config.eosTokenIds, ...(tokenizer.eosId === null ? [] : [tokenizer.eosId])];
    return { manifest, runner, tokenizer, template, eosTokenIds: [...new Set(eos)], adapters };
  } catch (error) {
    // Where the tokenizer is at fault, the runner is nobody's.
    await loading.then(
      (runner) => runner.close(),
      () => {},
    );
    throw error;
  } finally {
    progress.stop();
  }
}
