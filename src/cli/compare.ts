import { Engine, type EngineOptions } from '../engine/engine.js';
import type { Service, Variant } from '../server/service.js';
import { loadModel } from './load.js';
import type { ModelOptions } from './options.js';

const VARIANTS = [
  { suffix: 'dense', label: 'Dense, bf16', weights: 'bf16', dense: true },
  { suffix: 'sparse', label: 'Sparse, bf16', weights: 'bf16', dense: false },
  { suffix: 'sparse-i8', label: 'Sparse and quantized, i8', weights: 'i8', dense: false },
] as const;

/** Each variant answers a few at a time: enough to look at. */
const SEQUENCES = 4;

/**
 * The model three times more, as `--compare` shows it: dense, sparse, and sparse with 8-bit values. Each has an engine
 * and a small KV cache of its own; together they take about 2.5 times the memory of the model.
 */
export async function loadVariants(
  model: string | undefined,
  options: ModelOptions,
  base: Service,
  engine: EngineOptions,
): Promise<Map<string, Variant>> {
  const variants = new Map<string, Variant>();
  const size = { maxNumSeqs: SEQUENCES, maxNumBatchedTokens: engine.maxNumBatchedTokens };
  const { maxModelLen } = base.engine.info;
  const kvMemory = 2 * base.engine.info.kvBytesPerToken * (maxModelLen + 32);
  for (const { suffix, label, weights, dense } of VARIANTS) {
    const choice = { ...options, weights, dense, kvMemory, maxModelLen, lora: [] };
    const { runner } = await loadModel(model, choice, size);
    const name = `${base.model.names[0]}:${suffix}`;
    const service: Service = {
      ...base,
      engine: new Engine(runner, { ...engine, ...size }),
      model: { ...base.model, names: [name] },
    };
    variants.set(name, { label, service });
  }
  return variants;
}
