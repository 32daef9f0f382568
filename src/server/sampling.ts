import { randomBytes } from 'node:crypto';
import type { Constraint, SamplingParams } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import type { ChatBody } from './schemas/chat.js';
import type { CompletionBody } from './schemas/completions.js';
import type { Service } from './service.js';

type SamplingBody = Omit<ChatBody & CompletionBody, 'logprobs' | 'messages' | 'prompt' | 'echo' | 'model'>;

/** What a request's sampling parameters come to, the same for each of its prompts. */
export interface SamplingPlan {
  /** Parameters of the i-th choice: its random stream is its own. */
  params(choice: number): SamplingParams;
  stop: string[];
  stopTokenIds: number[];
  /** The stop tokens that the caller named: only these are reported as `stop_reason`. */
  namedStopIds: ReadonlySet<number>;
  includeStop: boolean;
  skipSpecial: boolean;
}

const bad = (param: string, message: string) =>
  new FiligreeError('invalid_value', `'${param}' ${message}`, { param });

function checkIds(ids: readonly number[], vocabSize: number, param: string): void {
  ids.forEach((id, i) => {
    if (id >= vocabSize)
      throw bad(`${param}[${i}]`, `is ${id}, outside the vocabulary of ${vocabSize} tokens`);
  });
}

function logitBias(bias: Record<string, number>, vocabSize: number): [number, number][] {
  return Object.entries(bias).map(([key, value]) => {
    if (!/^\d+$/.test(key) || Number(key) >= vocabSize)
      throw bad('logit_bias', `has the key '${key.slice(0, 40)}', which is no token id below ${vocabSize}`);
    return [Number(key), value];
  });
}

/** A word is banned at the start of a text and after a space, where its tokens differ (as vLLM does). */
function badWordTokens(service: Service, words: readonly string[]): number[][] {
  const { tokenizer } = service.model;
  const sequences: number[][] = [];
  for (const word of words) {
    const bare = word.trimStart();
    const ids = tokenizer.encode(bare, { addSpecial: false });
    const spaced = tokenizer.encode(` ${bare}`, { addSpecial: false });
    if (ids.length > 0) sequences.push(ids);
    if (spaced.length > 0 && spaced[0] !== ids[0] && spaced.length === ids.length) sequences.push(spaced);
  }
  return sequences;
}

/**
 * @param logprobs most likely tokens wanted beside each of the answer's, -1 for no log-probabilities
 * @param promptLogprobs the same for the prompt's
 * @param constraint what the answer must be
 * @throws FiligreeError invalid_value or unsupported_value, naming the parameter
 */
export function planSampling(
  service: Service,
  body: SamplingBody,
  logprobs: number,
  promptLogprobs: number,
  constraint: Constraint | null = null,
): SamplingPlan {
  const { vocabSize } = service.engine.info;
  const namedStops = body.stop_token_ids ?? [];
  checkIds(namedStops, vocabSize, 'stop_token_ids');
  const allowed = body.allowed_token_ids ?? null;
  if (allowed) checkIds(allowed, vocabSize, 'allowed_token_ids');
  if (body.stream_options && !body.stream) throw bad('stream_options', "needs 'stream': true");
  if (body.stream && (body.prompt_logprobs ?? null) !== null)
    throw bad('prompt_logprobs', "cannot be streamed: leave 'stream' out");

  const eos = body.ignore_eos ? [] : service.model.eosTokenIds;
  const stopTokenIds = [...new Set([...eos, ...namedStops])];
  const minTokens = body.min_tokens ?? 0;
  const defaults = service.model.generation ?? {};
  const topP = body.top_p ?? defaults.topP ?? 1;
  const shared: Omit<SamplingParams, 'seed'> = {
    temperature: body.temperature ?? defaults.temperature ?? 1,
    // The smallest nucleus is one token.
    topK: topP === 0 ? 1 : Math.max(body.top_k ?? defaults.topK ?? 0, 0),
    topP: topP === 0 ? 1 : topP,
    minP: body.min_p ?? defaults.minP ?? 0,
    repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    frequencyPenalty: body.frequency_penalty ?? 0,
    presencePenalty: body.presence_penalty ?? 0,
    logitBias: logitBias(body.logit_bias ?? {}, vocabSize),
    logprobs,
    promptLogprobs,
    pooling: 'none',
    minTokens,
    suppressedUntilMin: minTokens > 0 ? stopTokenIds : [],
    allowedTokenIds: allowed,
    badWords: badWordTokens(service, body.bad_words ?? []),
    constraint,
  };
  const seed = typeof body.seed === 'number' ? BigInt(body.seed) : randomBytes(8).readBigUInt64LE();
  const { stop } = body;
  return {
    params: (choice) => ({ ...shared, seed: BigInt.asUintN(64, seed + BigInt(choice)) }),
    stop: typeof stop === 'string' ? [stop] : (stop ?? []),
    stopTokenIds,
    namedStopIds: new Set(namedStops),
    includeStop: body.include_stop_str_in_output ?? false,
    skipSpecial: body.skip_special_tokens ?? true,
  };
}

/**
 * Tokens that the answer may have.
 * @param wanted null: whatever fits, at most `most`
 * @throws FiligreeError context_length_exceeded, invalid_value
 */
export function answerBudget(
  service: Service,
  promptTokens: number,
  wanted: number | null,
  most: number,
  minTokens: number,
  promptParam: string,
): number {
  const { maxModelLen } = service.engine.info;
  const budget = wanted ?? Math.min(most, maxModelLen - promptTokens);
  if (promptTokens + budget > maxModelLen || (wanted === null && budget < 1)) {
    const asked = wanted === null ? '' : ` and ${wanted} for the answer, ${promptTokens + wanted} together`;
    throw new FiligreeError(
      'context_length_exceeded',
      `This model's maximum context length is ${maxModelLen} tokens. The request has ${promptTokens} tokens in the ` +
        `${promptParam}${asked}. Shorten the ${promptParam}${wanted === null ? '' : ' or lower max_tokens'}.`,
      { param: promptParam },
    );
  }
  if (minTokens > budget && wanted !== null)
    throw bad('min_tokens', `is ${minTokens}, more than the ${budget} tokens that the answer may have`);
  return budget;
}
