import type { TextDelta } from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import { type Call, collect, type Exchange, envelope, finishOf, submitBatch, usageOf } from './exchange.js';
import { chatLogprobs, promptLogprobs } from './logprobs.js';
import { encodeChat, truncated } from './prompt.js';
import { answerBudget, planSampling } from './sampling.js';
import type { ChatBody } from './schemas/chat.js';
import { resolveName, type Service, serviceFor } from './service.js';

/**
 * Answers `/v1/chat/completions`: everything that can be refused is refused here, before the first byte of an answer.
 * @throws FiligreeError
 */
export async function startChat(shared: Service, body: ChatBody, call: Call): Promise<Exchange> {
  const service = serviceFor(shared, body.model);
  const model = resolveName(service, body.model);
  const { tokenizer } = service.model;
  const choices = body.n ?? 1;
  const top = body.top_logprobs ?? 0;
  if (top > 0 && !body.logprobs)
    throw new FiligreeError('invalid_value', "'top_logprobs' needs 'logprobs': true", {
      param: 'top_logprobs',
    });
  const wanted = body.max_completion_tokens ?? body.max_tokens ?? null;
  if (wanted === 0)
    throw new FiligreeError('invalid_value', "'max_tokens' must be at least 1", { param: 'max_tokens' });

  // Before the prompt costs anything.
  service.engine.assertAccepts();
  const plan = planSampling(service, body, body.logprobs ? top : -1, body.prompt_logprobs ?? -1);
  const { ids, lastContent } = await encodeChat(service, body);
  const prompt = truncated(service, ids, body.truncate_prompt_tokens);
  const budget = answerBudget(
    service,
    prompt.length,
    wanted,
    Number.POSITIVE_INFINITY,
    body.min_tokens ?? 0,
    'messages',
  );
  const prompts = [{ ids: Int32Array.from(prompt), maxTokens: budget }];
  const base = envelope(service, 'chatcmpl', body.request_id, model);
  const batch = submitBatch(service, plan, prompts, choices, call, {
    id: base.id,
    priority: body.priority,
    cacheSalt: body.cache_salt,
    continuation: body.continue_final_message ?? false,
  });

  const echo = body.echo && body.continue_final_message ? lastContent : '';
  const logprobsOf = (delta: TextDelta) =>
    body.logprobs ? { content: chatLogprobs(tokenizer, delta.tokens, top), refusal: null } : null;
  const wantsTokens = body.logprobs || body.return_token_ids;
  const tokenIds = (delta: TextDelta) =>
    body.return_token_ids ? { token_ids: delta.tokens.map((token) => token.id) } : {};

  async function* chunks(): AsyncGenerator<object> {
    const includeUsage = body.stream_options?.include_usage ?? false;
    const chunk = (choice: object | null, extra: object = {}) => ({
      ...base,
      object: 'chat.completion.chunk',
      choices: choice === null ? [] : [choice],
      ...(includeUsage && { usage: null }),
      ...extra,
    });
    const opened = new Set<number>();
    for await (const { index, generation, delta } of batch.read()) {
      // Checked before the role: a choice that fails at once says nothing first.
      const finish = delta === null ? finishOf(generation, plan) : null;
      if (!opened.has(index)) {
        opened.add(index);
        const ids = body.return_token_ids ? { prompt_token_ids: prompt } : {};
        yield chunk(
          { index, delta: { role: 'assistant', content: echo }, logprobs: null, finish_reason: null },
          ids,
        );
      }
      if (delta !== null) {
        if (delta.text === '' && !wantsTokens) continue;
        const choice = {
          index,
          delta: { content: delta.text },
          logprobs: logprobsOf(delta),
          finish_reason: null,
        };
        yield chunk({ ...choice, ...tokenIds(delta) });
      } else yield chunk({ index, delta: {}, logprobs: null, ...finish });
    }
    if (includeUsage) yield chunk(null, { usage: usageOf(batch.generations, prompts, choices) });
  }

  async function response(): Promise<object> {
    const texts = Array.from({ length: choices }, () => ({
      text: echo,
      delta: { text: '', tokens: [] } as TextDelta,
    }));
    await collect(batch, ({ index, delta }) => {
      const choice = texts[index];
      if (!choice || delta === null) return;
      choice.text += delta.text;
      if (wantsTokens) choice.delta.tokens.push(...delta.tokens);
    });
    const first = batch.generations[0];
    return {
      ...base,
      object: 'chat.completion',
      choices: batch.generations.map((generation, index) => {
        const { text, delta } = texts[index] as (typeof texts)[number];
        return {
          index,
          message: { role: 'assistant', content: text, refusal: null },
          logprobs: logprobsOf(delta),
          ...finishOf(generation, plan),
          ...tokenIds(delta),
        };
      }),
      usage: usageOf(batch.generations, prompts, choices),
      ...(first?.prompt && {
        prompt_logprobs: promptLogprobs(tokenizer, (prompts[0] as (typeof prompts)[0]).ids, first.prompt),
      }),
      ...(body.return_token_ids && { prompt_token_ids: prompt }),
    };
  }

  return { id: base.id, chunks, response, cancel: () => batch.cancel(), promptTokens: prompt.length };
}
