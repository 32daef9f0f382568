import type { Metric, Sample } from './types.js';

/**
 * Every metric is a ratio of sums, r = Σ v / Σ w. Its standard error follows from the residuals e = v - r w
 * (Cochran, Sampling Techniques, 1977, eq. 6.4, large population): for w = 1 it is the usual standard error of a mean, which is what
 * lm-evaluation-harness reports. Differences of two models on the same items use the residuals of both at once, so
 * that what an item's difficulty does to both cancels.
 */
export interface Estimate {
  value: number;
  stderr: number | null;
  n: number;
}

interface Ratio {
  ratio: number;
  /** Residuals by sample, divided by the sum of weights: their sum of squares is the variance. */
  residuals: number[];
}

function ratioOf(samples: readonly Sample[], metric: string): Ratio {
  let sum = 0;
  let weight = 0;
  for (const sample of samples) {
    sum += sample.values[metric] as number;
    weight += sample.weights?.[metric] ?? 1;
  }
  const ratio = sum / weight;
  const residuals = samples.map(
    (sample) => ((sample.values[metric] as number) - ratio * (sample.weights?.[metric] ?? 1)) / weight,
  );
  return { ratio, residuals };
}

/** Standard error of a sum of n independent residuals with one degree of freedom spent; null for a single one. */
function standardError(residuals: readonly number[]): number | null {
  const n = residuals.length;
  if (n < 2) return null;
  return Math.sqrt((n / (n - 1)) * residuals.reduce((sum, e) => sum + e * e, 0));
}

export function estimate(samples: readonly Sample[], metric: Metric): Estimate {
  const { ratio, residuals } = ratioOf(samples, metric.name);
  const stderr = standardError(residuals);
  if (metric.scale === 'linear') return { value: ratio, stderr, n: samples.length };
  const value = Math.exp(ratio);
  return { value, stderr: stderr === null ? null : value * stderr, n: samples.length };
}

export interface Comparison {
  /** Second minus first, in the metric's own scale (for perplexities: of the mean negative log-likelihoods). */
  difference: Estimate;
  /** Second over first; for metrics where less is better, first over second: 1 is fully recovered. */
  recovery: Estimate;
  /** The same after taking off what guessing gives; null where the first is not above it by two standard errors. */
  recoveryAboveChance: Estimate | null;
}

/**
 * Compares two models on the same items.
 * @param first samples of the reference; `second` must be of the same items in the same order
 */
export function compare(
  first: readonly Sample[],
  second: readonly Sample[],
  { name, scale, higherIsBetter }: Metric,
): Comparison {
  if (first.length !== second.length || first.some((sample, i) => sample.index !== second[i]?.index))
    throw new Error('compare: the samples are not of the same items');
  const n = first.length;
  const a = ratioOf(first, name);
  const b = ratioOf(second, name);
  const combined = (ofA: number, ofB: number) =>
    standardError(a.residuals.map((e, i) => ofA * e + ofB * (b.residuals[i] as number)));
  const difference = { value: b.ratio - a.ratio, stderr: combined(-1, 1), n };
  if (scale === 'exp') {
    const sign = higherIsBetter ? 1 : -1;
    const value = Math.exp(sign * (b.ratio - a.ratio));
    const stderr = difference.stderr === null ? null : value * difference.stderr;
    return { difference, recovery: { value, stderr, n }, recoveryAboveChance: null };
  }
  const error = standardError(a.residuals);
  const chance = first.reduce((sum, sample) => sum + (sample.chance ?? 0), 0) / n;
  const recovered = (base: number): Estimate => {
    const top = (higherIsBetter ? b.ratio : a.ratio) - base;
    const bottom = (higherIsBetter ? a.ratio : b.ratio) - base;
    // First-order propagation of t / u: dt / u - t du / u².
    const [dTop, dBottom] = [1 / bottom, -top / (bottom * bottom)];
    const stderr = higherIsBetter ? combined(dBottom, dTop) : combined(dTop, dBottom);
    return { value: top / bottom, stderr, n };
  };
  return {
    difference,
    recovery: recovered(0),
    recoveryAboveChance:
      chance > 0 && error !== null && a.ratio - chance > 2 * error ? recovered(chance) : null,
  };
}
