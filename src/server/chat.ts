import type { TextDelta } from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import { ChatAnswer } from './chat-answer.js';
import { planConstraint } from './constraint.js';
import { type Call, collect, type Exchange, envelope, finishOf, submitBatch, usageOf } from './exchange.js';
import { chatLogprobs, promptLogprobs } from './logprobs.js';
import { encodeChat, truncated } from './prompt.js';
import { answerBudget, planSampling } from './sampling.js';
import type { ChatBody } from './schemas/chat.js';
import { resolveName, type Service, serviceFor } from './service.js';
import { planTools } from './tools/plan.js';

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

  // Before the prompt costs anything.
  service.engine.assertAccepts();
  const tools = planTools(service, body);
  const continuation = body.continue_final_message ?? false;
  const constraint = await planConstraint(service, body, tools, continuation);
  const plan = planSampling(service, body, body.logprobs ? top : -1, body.prompt_logprobs ?? -1, constraint);
  // A marker that is a control token must be seen.
  if (tools?.family.marker) plan.skipSpecial = false;
  const { ids, lastContent } = await encodeChat(service, body, tools);
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
    continuation,
  });

  const echo = body.echo && body.continue_final_message ? lastContent : '';
  const logprobsOf = (delta: TextDelta) =>
    body.logprobs ? { content: chatLogprobs(tokenizer, delta.tokens, top), refusal: null } : null;
  const wantsTokens = body.logprobs || body.return_token_ids;
  const tokenIds = (delta: TextDelta) =>
    body.return_token_ids ? { token_ids: delta.tokens.map((token) => token.id) } : {};

  const answers = Array.from({ length: choices }, () => new ChatAnswer(tools));

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
      const answer = answers[index] as ChatAnswer;
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
        const deltas = answer.deltas(delta.text);
        // Log-probabilities belong to tokens, which may not show yet.
        if (deltas.length === 0 && wantsTokens) deltas.push({ content: '' });
        for (const [i, part] of deltas.entries()) {
          const logprobs = i === 0 ? logprobsOf(delta) : null;
          yield chunk({ index, delta: part, logprobs, finish_reason: null, ...(i === 0 && tokenIds(delta)) });
        }
      } else {
        for (const part of answer.lastDeltas())
          yield chunk({ index, delta: part, logprobs: null, finish_reason: null });
        yield chunk({ index, delta: {}, logprobs: null, ...finish, ...answer.finish(finish) });
      }
    }
    if (includeUsage) yield chunk(null, { usage: usageOf(batch.generations, prompts, choices) });
  }

  async function response(): Promise<object> {
    const texts = Array.from({ length: choices }, () => ({
      text: '',
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
        const answer = answers[index] as ChatAnswer;
        const finish = finishOf(generation, plan);
        return {
          index,
          message: answer.message(text, echo),
          logprobs: logprobsOf(delta),
          ...finish,
          ...answer.finish(finish),
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
