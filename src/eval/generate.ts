import { GREEDY } from '../engine/model-runner.js';
import { TextBatch, type TextRequest } from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import type { EvalModel, TaskRun } from './types.js';

export interface GenerationRules {
  /** Strings that end an answer and are not part of it. */
  until: readonly string[];
  maxTokens: number;
}

/**
 * Greedy answers to prompts, in their order (lm-evaluation-harness's `generate_until`): an answer ends at a stop string, at
 * the end of the text, or at the limit. A prompt that leaves no room for the answer loses its beginning.
 */
export async function answers(
  run: TaskRun,
  prompts: readonly string[],
  { until, maxTokens }: GenerationRules,
): Promise<string[]> {
  const { model, chat } = run;
  const requests = prompts.map((prompt) => requestOf(model, prompt, chat, until, maxTokens));
  const texts = prompts.map(() => '');
  if (requests.length === 0) return texts;
  const batch = new TextBatch(model.engine, model.tokenizer, requests, model.engine.maxNumSeqs * 2);
  let done = 0;
  for await (const { index, generation, delta } of batch.read()) {
    if (run.signal?.aborted) {
      batch.cancel();
      run.signal.throwIfAborted();
    }
    if (delta !== null) texts[index] += delta.text;
    else if (generation.result?.finishReason === 'abort')
      throw new FiligreeError('request_aborted', 'The evaluation was broken off.');
    else run.onProgress(++done, prompts.length);
  }
  return texts;
}

function requestOf(
  { engine, tokenizer, template, eosTokenIds }: EvalModel,
  prompt: string,
  chat: boolean,
  until: readonly string[],
  maxTokens: number,
): TextRequest {
  const ids =
    chat && template !== null
      ? template.encode([{ role: 'user', content: prompt }], { addGenerationPrompt: true })
      : tokenizer.encode(prompt);
  const { maxModelLen } = engine.info;
  const most = Math.min(maxTokens, Math.max(1, Math.floor(maxModelLen / 2)));
  return {
    id: 'eval',
    prompt: Int32Array.from(ids.slice(-(maxModelLen - most))),
    sampling: GREEDY,
    maxTokens: most,
    stopTokenIds: eosTokenIds,
    stop: until,
    includeStop: false,
    skipSpecial: true,
    continuation: !chat,
  };
}
