import { likelihoods, prefixToken, type TokenContinuation } from './score.js';
import type { EvalModel, Progress } from './types.js';

/**
 * Mean negative log-likelihood of each window of a text, SparseGPT's and GPTQ's way: windows follow one another without
 * overlap, the first token of each is not predicted, a rest shorter than a window is left out.
 * exp of the mean over the windows is the perplexity that these papers report.
 */
export async function windowNlls(
  model: EvalModel,
  ids: readonly number[],
  options: {
    window: number;
    limit?: number | undefined;
    onProgress?: Progress;
    signal?: AbortSignal | undefined;
  },
): Promise<number[]> {
  const { window } = options;
  const windows = Math.min(Math.floor(ids.length / window), options.limit ?? Number.POSITIVE_INFINITY);
  const requests = Array.from({ length: windows }, (_, w) => ({
    context: ids.slice(w * window, w * window + 1),
    continuation: ids.slice(w * window + 1, (w + 1) * window),
  }));
  const scores = await likelihoods(model, requests, options);
  return scores.map(({ logprob }) => -logprob / (window - 1));
}

/**
 * The parts in which lm-evaluation-harness scores a long text (`loglikelihood_rolling`): every token is predicted once,
 * the first from the prefix token, and each part begins where the one before ended, with as much context as fits.
 */
export function rollingParts(model: EvalModel, ids: readonly number[]): TokenContinuation[] {
  const longest = model.engine.info.maxModelLen - 1;
  if (ids.length === 0) return [];
  const first = Math.min(longest, ids.length);
  const parts: TokenContinuation[] = [{ context: [prefixToken(model)], continuation: ids.slice(0, first) }];
  for (let predicted = first; predicted < ids.length; ) {
    const count = Math.min(ids.length - predicted, longest);
    const end = predicted + count;
    // The window holds `longest` tokens before its last; those it does not predict are context.
    parts.push({
      context: ids.slice(end - longest - 1, predicted),
      continuation: ids.slice(predicted, end),
    });
    predicted = end;
  }
  return parts;
}
