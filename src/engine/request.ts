import type { PromptLogprobs, SamplingParams, TopLogprobs } from './model-runner.js';

/** What a caller asks of the engine. Everything is in tokens: text belongs to the layers above. */
export interface GenerateRequest {
  id: string;
  /** At least one token. */
  prompt: Int32Array;
  sampling: SamplingParams;
  /** 0 computes the prompt only (prompt log-probabilities). */
  maxTokens: number;
  /** Tokens that end the output; the end-of-sequence ids stand here unless the caller ignores them. */
  stopTokenIds: readonly number[];
  /** Smaller runs earlier; equal priorities are served first come, first served. Default 0. */
  priority?: number;
  /** Requests share prefix-cache blocks only under the same salt. */
  cacheSalt?: string;
  /** One of the runner's adapters, by name; left out: the base alone. */
  adapter?: string;
  /** When the request reached the server, in the clock of `performance.now()`; default: now. */
  arrival?: number;
}

export type FinishReason = 'stop' | 'length' | 'abort' | 'error';

/** Log-probabilities of the whole prompt, once, before the first token. Row i belongs to `prompt[i + sampling.promptLogprobsFrom]` (default 1). */
export interface PromptEvent extends PromptLogprobs {
  type: 'prompt';
}

/** The prompt's pooled final hidden state, [hiddenSize], where `sampling.pooling` asked for it. */
export interface PooledEvent {
  type: 'pooled';
  state: Float32Array;
}

export interface TokenEvent {
  type: 'token';
  token: number;
  logprob: number;
  top: TopLogprobs | null;
  /** The token is one of `stopTokenIds` and ended the output: its text is not part of the answer. */
  isStop: boolean;
}

/** Milliseconds in the clock of `performance.now()`; null for what never happened. */
export interface RequestTimings {
  arrival: number;
  scheduled: number | null;
  firstToken: number | null;
  finished: number;
}

/** The last event of every generation. */
export interface FinishEvent {
  type: 'finish';
  finishReason: FinishReason;
  /** The stop token that ended the output. */
  stopTokenId: number | null;
  /** Set when `finishReason` is `error`. */
  error: Error | null;
  promptTokens: number;
  outputTokens: number;
  /** Prompt tokens that the prefix cache already held. */
  cachedTokens: number;
  preemptions: number;
  timings: RequestTimings;
}

export type GenerationEvent = PromptEvent | PooledEvent | TokenEvent | FinishEvent;
