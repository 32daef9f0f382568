import { createHash, randomUUID } from 'node:crypto';
import {
  type BatchEvent,
  TextBatch,
  type TextGeneration,
  type TextRequest,
} from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import type { SamplingPlan } from './sampling.js';
import type { Service } from './service.js';

/** One request's answer, as chunks or whole: what HTTP and the WebSocket have in common. */
export interface Exchange {
  id: string;
  /** Bodies of the chunks, in order. Throws what fails. Leaving early cancels. */
  chunks(): AsyncGenerator<object>;
  /** The whole answer. */
  response(): Promise<object>;
  cancel(): void;
  /** Tokens of the prompt, where the exchange is a conversation. */
  promptTokens?: number;
}

/** What one chunk of `startChat`'s exchange holds, as far as other dialects read it. */
export interface ChatChunk {
  choices: {
    index: number;
    delta: {
      content?: string | null;
      tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[];
    };
    logprobs?: { content: object[] } | null;
    finish_reason?: string | null;
    stop_reason?: string | number | null;
  }[];
  usage?: Usage | null;
}

/** What the transport knows of a request. */
export interface Call {
  requestId: string;
  /** In the clock of `performance.now()`. */
  arrival: number;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

/** Fields that every chunk and answer of one exchange share. */
export function envelope(
  service: Service,
  prefix: string,
  requestId: string | null | undefined,
  model: string,
) {
  return {
    id: `${prefix}-${requestId ?? randomUUID().replaceAll('-', '')}`,
    created: Math.floor(Date.now() / 1000),
    model,
    system_fingerprint: fingerprint(service),
  };
}

/** Same fingerprint, same numbers: release, instruction set and weight formats decide how sums are rounded. */
function fingerprint(service: Service): string {
  const { isa, formats, kvType } = service.engine.info;
  const what = JSON.stringify([service.version, isa, Object.keys(formats).sort(), kvType]);
  return `fp_${createHash('sha256').update(what).digest('hex').slice(0, 10)}`;
}

/** Choices with the engine at once, of one request: the engine stays full and its queue stays open to others. */
const windowOf = (service: Service) => 2 * service.engine.maxNumSeqs;

export interface PromptPlan {
  ids: Int32Array;
  maxTokens: number;
}

/**
 * Submits `choices` generations for each prompt. The exchange counts as active from `enter` (called by the routes
 * before the prompt was rendered) until the batch is read or cancelled.
 */
export function submitBatch(
  service: Service,
  plan: SamplingPlan,
  prompts: readonly PromptPlan[],
  choices: number,
  call: Call,
  options: { id: string; priority?: number | null; cacheSalt?: string | null; continuation: boolean },
): TextBatch {
  const requests = prompts.flatMap((prompt, p) =>
    Array.from({ length: choices }, (_, c): TextRequest => {
      const { priority, cacheSalt } = options;
      return {
        id: prompts.length * choices === 1 ? options.id : `${options.id}-${p * choices + c}`,
        prompt: prompt.ids,
        sampling: plan.params(c),
        maxTokens: prompt.maxTokens,
        stopTokenIds: plan.stopTokenIds,
        ...(typeof priority === 'number' && { priority }),
        ...(typeof cacheSalt === 'string' && { cacheSalt }),
        ...(service.adapter !== undefined && { adapter: service.adapter }),
        arrival: call.arrival,
        stop: plan.stop,
        includeStop: plan.includeStop,
        skipSpecial: plan.skipSpecial,
        continuation: options.continuation,
      };
    }),
  );
  return new TextBatch(service.engine, service.model.tokenizer, requests, windowOf(service));
}

/** The usage of all choices; a prompt counts once however many choices it has. */
export function usageOf(
  generations: readonly TextGeneration[],
  prompts: readonly PromptPlan[],
  choices: number,
): Usage {
  const prompt = prompts.reduce((sum, p) => sum + p.ids.length, 0);
  const completion = generations.reduce((sum, g) => sum + g.outputTokens, 0);
  let cached = 0;
  for (let i = 0; i < generations.length; i += choices) cached += generations[i]?.result?.cachedTokens ?? 0;
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: cached },
  };
}

/** @throws FiligreeError where the server, not the client, broke the generation off */
export function finishOf(generation: TextGeneration, plan: SamplingPlan) {
  const { result } = generation;
  if (result === null || result.finishReason === 'abort')
    throw new FiligreeError('server_draining', 'The server broke the answer off: it is shutting down.');
  const { finishReason, stopReason } = result;
  const named = typeof stopReason === 'string' || (stopReason !== null && plan.namedStopIds.has(stopReason));
  return { finish_reason: finishReason, stop_reason: named ? stopReason : null };
}

/** Reads a batch to its end for a whole answer. */
export async function collect(batch: TextBatch, take: (event: BatchEvent) => void): Promise<void> {
  for await (const event of batch.read()) take(event);
}
