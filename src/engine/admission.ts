import { FiligreeError } from '../errors.js';
import type { RunnerInfo } from './model-runner.js';
import type { GenerateRequest } from './request.js';

/**
 * Refuses what this model can never compute.
 * @throws FiligreeError `invalid_value`, `context_length_exceeded`, `model_not_found`
 */
export function validateRequest(request: GenerateRequest, info: RunnerInfo): void {
  const { prompt, maxTokens, adapter } = request;
  const { maxModelLen, vocabSize, adapters } = info;
  if (adapter !== undefined && !adapters?.includes(adapter))
    throw new FiligreeError('model_not_found', `There is no adapter '${adapter}'.`);
  if (prompt.length === 0) throw new FiligreeError('invalid_value', 'The prompt is empty.');
  if (!Number.isInteger(maxTokens) || maxTokens < 0) {
    throw new FiligreeError(
      'invalid_value',
      `max_tokens must be a whole number from 0 on, got ${maxTokens}.`,
    );
  }
  const room = maxModelLen - (maxTokens > 0 ? 1 : 0);
  if (prompt.length > room) {
    throw new FiligreeError(
      'context_length_exceeded',
      `This model's maximum context length is ${maxModelLen} tokens, but the prompt has ${prompt.length}` +
        `${maxTokens > 0 ? ' and at least one token is to be generated' : ''}. Shorten the prompt.`,
    );
  }
  for (const id of prompt) {
    if (id < 0 || id >= vocabSize) {
      throw new FiligreeError('invalid_value', `Token id ${id} is outside the vocabulary of ${vocabSize}.`);
    }
  }
}

export function queueFull(what: string): FiligreeError {
  return new FiligreeError('queue_full', `The queue is full: too many ${what} are waiting. Retry later.`, {
    retryAfter: 1,
  });
}
