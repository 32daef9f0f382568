import type { Contestant } from '../../bench/contestant.js';
import { BLOCK_SIZE } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import type { ModelManifest } from '../model/manifest.js';
import { FORMATS, integer, KV_TYPES, numbers, pick } from './bench-options.js';
import type { ProgressLine } from './progress-line.js';

/** What of ours takes part in a comparison, and under which conditions. */
export interface ContestOptions {
  shape?: string;
  sparsity: string;
  formats: string;
  batch: string;
  prompt: string;
  context: string;
  kv: string;
  device: 'auto' | 'cpu' | 'cuda';
  tensorParallel: string;
  threads?: string;
  isa?: string;
  /** Every format once more under a random LoRA adapter of this rank. */
  loraRank?: number;
}

/** Loads every format of a model, dense and sparse, or of a random shape at each sparsity. */
export async function ownContestants(
  model: string | undefined,
  options: ContestOptions,
  progress: ProgressLine,
): Promise<{ contestants: Contestant[]; name: string; manifest: ModelManifest }> {
  const [
    { ownContestant },
    { randomAdapter },
    { blocksNeeded },
    { randomModel },
    native,
    { openModel, resolveModel },
  ] = await Promise.all([
    import('../../bench/contestant.js'),
    import('../../bench/random-adapter.js'),
    import('../../bench/measure.js'),
    import('../../bench/shapes.js'),
    import('../native/index.js'),
    import('../model/index.js'),
  ]);
  if (model !== undefined && options.shape !== undefined)
    throw new FiligreeError('usage', 'give a MODEL or --shape, not both');
  const batches = numbers('--batch', options.batch, (v) => Number.isInteger(v) && v >= 1 && v <= 256);
  const sparsities = numbers('--sparsity', options.sparsity, (v) => v >= 0 && v < 1);
  const formats = pick('--formats', options.formats, FORMATS);
  const kvs = pick('--kv', options.kv, KV_TYPES);
  const shares = numbers('--tensor-parallel', options.tensorParallel, (v) => Number.isInteger(v) && v >= 1);
  const conditions = kvs.flatMap((kv) => shares.map((gpus) => ({ kv, gpus })));
  const prompt = integer('--prompt', options.prompt, 1);
  const context = integer('--context', options.context, 1);
  // A model from disk is shown both ways; a random shape is dense at 0 and sparse otherwise.
  const ways: { manifest: ModelManifest; sparse: boolean }[] = [];
  if (options.shape !== undefined) {
    for (const zeros of sparsities)
      ways.push({ manifest: randomModel(options.shape, zeros), sparse: zeros > 0 });
  } else {
    const manifest = await openModel(await resolveModel(model));
    ways.push({ manifest, sparse: false }, { manifest, sparse: true });
  }
  const contestants: Contestant[] = [];
  try {
    for (const { manifest, sparse } of ways)
      for (const { format, kv, gpus } of formats.flatMap((format) =>
        conditions.map((c) => ({ format, ...c })),
      )) {
        progress.show(`loading ${manifest.name} as ${format}${sparse ? ', sparse' : ', dense'}`);
        const runner = await native.loadNativeRunner(manifest, {
          device: options.device,
          tensorParallel: gpus,
          weights: format,
          // As other engines store 4-bit models: the head of the i8 and i4 rows is i4.
          head: options.shape && (format === 'i8' || format === 'i4') ? 'i4' : undefined,
          dense: !sparse,
          kv,
          threads: options.threads === undefined ? undefined : integer('--threads', options.threads, 1),
          isa: options.isa,
          maxModelLen: Math.min(manifest.config.maxPositionEmbeddings, Math.max(prompt, context + 80)),
          maxSlots: Math.max(...batches),
          maxBatchedTokens: Math.max(512, ...batches),
          kvMemory:
            (blocksNeeded(prompt, Math.max(...batches), context) + 1) *
            BLOCK_SIZE *
            native.kvBytesPerToken(manifest.config, kv),
          packedCache: false,
          adapters:
            options.loraRank === undefined
              ? []
              : [randomAdapter(`LoRA ${options.loraRank}`, manifest.config, options.loraRank)],
        });
        if (sparse && runner.info.sparsity < 0.05) {
          await runner.close();
          continue;
        }
        const condition = `${kvs.length > 1 ? `, KV ${kv}` : ''}${shares.length > 1 ? `, ${gpus} GPU${gpus > 1 ? 's' : ''}` : ''}`;
        for (const adapter of [undefined, ...(runner.info.adapters ?? [])])
          contestants.push(ownContestant(runner, format, sparse, condition, adapter));
      }
  } catch (error) {
    for (const contestant of contestants) await contestant.close();
    throw error;
  }
  const { manifest } = ways[0]!;
  const name = options.shape === undefined ? manifest.name : `${options.shape} shape, random weights`;
  return { contestants, name, manifest };
}
