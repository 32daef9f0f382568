import type { ModelConfig } from '../model/manifest.js';
import type { Compression, NativeLayerOptions } from '../native/index.js';
import type { Recipe } from './options.js';

/** Largest shift of a layer's share of zeros from the mean: OWL's lambda (Yin et al., arXiv 2310.05175). */
const LAMBDA = 0.08;
const MOST = 0.98;

/** Rows and columns of a layer's matrices, in the order of the native options. */
export function matrixSizes(c: ModelConfig): number[] {
  const q = c.numHeads * c.headDim;
  const kv = c.numKvHeads * c.headDim;
  return [
    q * c.hiddenSize,
    kv * c.hiddenSize,
    kv * c.hiddenSize,
    c.hiddenSize * q,
    c.intermediateSize * c.hiddenSize,
    c.intermediateSize * c.hiddenSize,
    c.hiddenSize * c.intermediateSize,
  ];
}

/**
 * Shifts shares of zeros by a common amount until their mean over the weights is `target`; each stays in [0, MOST].
 *
 * @param shares wanted, [i]
 * @param sizes weights behind each
 */
export function toBudget(shares: number[], sizes: number[], target: number): number[] {
  const total = sizes.reduce((a, b) => a + b, 0);
  const at = (shift: number) => shares.map((s) => Math.min(MOST, Math.max(0, s + shift)));
  const mean = (values: number[]) => values.reduce((sum, v, i) => sum + v * (sizes[i] as number), 0) / total;
  let low = -1;
  let high = 1;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (mean(at(middle)) < target) low = middle;
    else high = middle;
  }
  return at((low + high) / 2);
}

/**
 * Shares of zeros for every matrix of every layer under the recipe's overall share, from one pass over the dense model.
 *
 * - `owl`: all matrices of a layer alike; layers with more outliers keep more weights, within LAMBDA of the mean.
 * - `sensitivity`: a matrix whose output suffers more from the solver's pruning at the overall share keeps more: its share
 *   falls with the logarithm of that relative error, within 2 LAMBDA of the mean.
 */
export async function allocate(
  session: Compression,
  config: ModelConfig,
  recipe: Recipe,
  options: NativeLayerOptions,
  onProgress: (share: number) => void,
): Promise<number[][]> {
  const sizes = matrixSizes(config);
  const layers: { error: number[]; outliers: number[] }[] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    layers.push(await session.probe(options));
    onProgress((layer + 1) / config.numLayers);
  }
  const wanted =
    recipe.allocation === 'owl'
      ? byOutliers(
          layers.map(({ outliers }) => weightedMean(outliers, sizes)),
          recipe.sparsity,
          sizes.length,
        )
      : byError(
          layers.map(({ error }) => error),
          recipe.sparsity,
        );
  const flat = toBudget(
    wanted.flat(),
    wanted.flatMap(() => sizes),
    recipe.sparsity,
  );
  return wanted.map((_, layer) => flat.slice(layer * sizes.length, (layer + 1) * sizes.length));
}

const weightedMean = (values: number[], weights: number[]) =>
  values.reduce((sum, v, i) => sum + v * (weights[i] as number), 0) / weights.reduce((a, b) => a + b, 0);

function byOutliers(outliers: number[], sparsity: number, matrices: number): number[][] {
  const least = Math.min(...outliers);
  const most = Math.max(...outliers);
  return outliers.map((d) => {
    const rank = most === least ? 0.5 : (d - least) / (most - least);
    return Array.from({ length: matrices }, () => sparsity - LAMBDA * (2 * rank - 1));
  });
}

function byError(errors: number[][], sparsity: number): number[][] {
  const logs = errors.map((row) => row.map((e) => Math.log(Math.max(e, 1e-6))));
  const all = logs.flat();
  const mean = all.reduce((a, b) => a + b, 0) / all.length;
  const spread = Math.max(1e-6, ...all.map((x) => Math.abs(x - mean)));
  return logs.map((row) => row.map((x) => sparsity - 2 * LAMBDA * ((x - mean) / spread)));
}
