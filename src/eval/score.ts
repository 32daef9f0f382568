import { GREEDY } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import type { EvalModel, Progress } from './types.js';

/** A text whose likelihood after a context is asked for. */
export interface Continuation {
  context: string;
  continuation: string;
}

/** The same in tokens; at least one token of context. */
export interface TokenContinuation {
  context: readonly number[];
  continuation: readonly number[];
}

export interface Likelihood {
  /** Sum over the continuation's tokens, natural logarithm. */
  logprob: number;
  tokens: number;
  /** Whether greedy decoding would have written it; only where asked for, else null. */
  greedy: boolean | null;
}

/** Requests that stand with the engine at once, beyond those that run: enough to never let it wait. */
const AHEAD = 32;

/**
 * Tokens of a context and of its continuation, cut as lm-evaluation-harness does (`TemplateLM._encode_pair`): spaces at
 * the end of the context go to the continuation, both are encoded as one text, and the continuation is what stands
 * behind as many tokens as the context has alone.
 */
export function encodePair(model: EvalModel, { context, continuation }: Continuation): TokenContinuation {
  const { tokenizer } = model;
  if (context === '') {
    const ids = tokenizer.encode(continuation, { addSpecial: false });
    const prefix = prefixToken(model);
    return ids[0] === prefix
      ? { context: ids.slice(0, 1), continuation: ids.slice(1) }
      : { context: [prefix], continuation: ids };
  }
  const kept = context.trimEnd();
  const whole = tokenizer.encode(context + continuation);
  const head = tokenizer.encode(kept);
  return { context: whole.slice(0, head.length), continuation: whole.slice(head.length) };
}

/** What stands before a text that has nothing before it: the beginning of a text, or else the end of one. */
export function prefixToken({ tokenizer, eosTokenIds }: EvalModel): number {
  const id = tokenizer.bosId ?? eosTokenIds[0];
  if (id === undefined)
    throw new FiligreeError('tokenizer_invalid', 'The model has no token that begins or ends a text.');
  return id;
}

/**
 * Log-likelihoods, in the order asked. Requests that share a context should stand side by side: its keys and values are
 * then computed once (prefix cache), and only the continuations cost logits. What is longer than the model's context
 * loses its beginning.
 */
export function likelihoods(
  model: EvalModel,
  requests: readonly TokenContinuation[],
  options: { greedy?: boolean; onProgress?: Progress; signal?: AbortSignal | undefined } = {},
): Promise<Likelihood[]> {
  let done = 0;
  return pooled(requests, model.engine.maxNumSeqs + AHEAD, async (request) => {
    options.signal?.throwIfAborted();
    const result = await likelihood(model, request, options.greedy ?? false);
    options.onProgress?.(++done, requests.length);
    return result;
  });
}

async function likelihood(
  { engine }: EvalModel,
  { context, continuation }: TokenContinuation,
  greedy: boolean,
): Promise<Likelihood> {
  const tokens = continuation.length;
  if (tokens === 0) return { logprob: 0, tokens, greedy: greedy ? true : null };
  const prompt = Int32Array.from([...context, ...continuation].slice(-engine.info.maxModelLen));
  // A continuation as long as the model's context is scored from its second token on: nothing predicts the first.
  const from = Math.max(1, prompt.length - tokens);
  const generation = engine.submit({
    id: 'eval',
    prompt,
    sampling: { ...GREEDY, promptLogprobs: greedy ? 1 : 0, promptLogprobsFrom: from },
    maxTokens: 0,
    stopTokenIds: [],
  });
  const result: Likelihood = { logprob: 0, tokens, greedy: greedy ? true : null };
  for await (const event of generation) {
    if (event.type === 'prompt') {
      // Added in f64: thousands of f32 terms would lose digits.
      for (const value of event.logprobs) result.logprob += value;
      if (greedy) result.greedy = event.topIds.every((id, i) => id === prompt[from + i]);
    } else if (event.type === 'finish' && event.finishReason !== 'length') {
      throw event.error ?? new FiligreeError('request_aborted', 'The evaluation was broken off.');
    }
  }
  return result;
}

/** Runs `work` over all items, at most `width` at once, keeping their order; the first failure stops it. */
export async function pooled<T, R>(
  items: readonly T[],
  width: number,
  work: (item: T, index: number) => Promise<R>,
): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      try {
        results[index] = await work(items[index] as T, index);
      } catch (error) {
        next = items.length;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
  return results;
}
