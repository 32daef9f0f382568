import type { TextDelta, TextGeneration } from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import { type Infill, infillOf } from '../tokenizer/index.js';
import { planConstraint } from './constraint.js';
import {
  type Call,
  collect,
  type Exchange,
  envelope,
  finishOf,
  type PromptPlan,
  submitBatch,
  usageOf,
} from './exchange.js';
import {
  appendLogprobs,
  type CompletionLogprobs,
  CompletionLogprobWriter,
  promptLogprobs,
} from './logprobs.js';
import { readPrompts, refuseHopeless } from './prompt.js';
import { answerBudget, planSampling } from './sampling.js';
import type { CompletionBody } from './schemas/completions.js';
import { resolveName, type Service, serviceFor } from './service.js';

/** OpenAI's default length of a text completion. */
const DEFAULT_MAX_TOKENS = 16;

interface Prompt extends PromptPlan {
  /** What `echo` shows. */
  text: string;
}

/** The prompts of a request, each with the tokens that its answer may have. */
async function plannedPrompts(
  service: Service,
  body: CompletionBody,
  infill: Infill | null,
): Promise<Prompt[]> {
  if (infill !== null) {
    const text = body.prompt as string;
    refuseHopeless(service, text.length + (body.suffix?.length ?? 0), 'prompt');
    const ids = infill.encode(text, body.suffix as string);
    const wanted = body.max_tokens ?? null;
    const least = body.min_tokens ?? 0;
    const maxTokens = answerBudget(service, ids.length, wanted, DEFAULT_MAX_TOKENS, least, 'prompt');
    return [{ ids: Int32Array.from(ids), text, maxTokens }];
  }
  const prompts = await readPrompts(service, body.prompt, 'prompt', {
    addSpecial: body.add_special_tokens ?? true,
    truncate: body.truncate_prompt_tokens,
  });
  const skipSpecial = body.skip_special_tokens ?? true;
  return prompts.map(({ ids, text }) => ({
    ids: Int32Array.from(ids),
    text: text ?? (body.echo ? service.model.tokenizer.decode(ids, { skipSpecial }) : ''),
    maxTokens: answerBudget(
      service,
      ids.length,
      body.max_tokens ?? null,
      DEFAULT_MAX_TOKENS,
      body.min_tokens ?? 0,
      'prompt',
    ),
  }));
}

/** @throws FiligreeError where the model or the rest of the request knows no infill */
function infillFor(service: Service, body: CompletionBody): Infill {
  const refuse = (message: string) =>
    new FiligreeError('unsupported_value', `'suffix': ${message}`, { param: 'suffix' });
  const infill = infillOf(service.model.tokenizer);
  if (infill === null) throw refuse('this model has no infill tokens');
  if (typeof body.prompt !== 'string') throw refuse("needs a 'prompt' that is one text");
  if (typeof body.truncate_prompt_tokens === 'number') throw refuse("excludes 'truncate_prompt_tokens'");
  return infill;
}

/** Mean log-probability of a token: what `best_of` ranks by. */
const score = (generation: TextGeneration) =>
  generation.cumulativeLogprob / Math.max(generation.outputTokens, 1);

/**
 * Answers `/v1/completions`. Choice `p * n + c` is the c-th of prompt p.
 * @throws FiligreeError
 */
export async function startCompletion(shared: Service, body: CompletionBody, call: Call): Promise<Exchange> {
  const service = serviceFor(shared, body.model);
  const model = resolveName(service, body.model);
  const { tokenizer } = service.model;
  const n = body.n ?? 1;
  const bestOf = body.best_of ?? n;
  const invalid = (param: string, message: string) =>
    new FiligreeError('invalid_value', `'${param}' ${message}`, { param });
  if (bestOf < n) throw invalid('best_of', `is ${bestOf}, fewer than 'n', which is ${n}`);
  if (bestOf > n && body.stream) throw invalid('best_of', "cannot be streamed beyond 'n'");
  const infill = body.suffix ? infillFor(service, body) : null;

  const top = body.logprobs ?? -1;
  const wantsLogprobs = top >= 0;
  const echoLogprobs = body.echo && wantsLogprobs ? top : -1;
  // Before the prompts cost anything.
  service.engine.assertAccepts();
  const plan = planSampling(
    service,
    infill === null ? body : { ...body, stop_token_ids: [...(body.stop_token_ids ?? []), ...infill.stopIds] },
    bestOf > n ? Math.max(top, 0) : top,
    Math.max(echoLogprobs, body.prompt_logprobs ?? -1),
    await planConstraint(service, body, null, true),
  );
  const prompts = await plannedPrompts(service, body, infill);
  const base = envelope(service, 'cmpl', body.request_id, model);
  const batch = submitBatch(service, plan, prompts, bestOf, call, {
    id: base.id,
    priority: body.priority,
    cacheSalt: body.cache_salt,
    continuation: true,
  });

  const wantsTokens = wantsLogprobs || body.return_token_ids;
  const promptOf = (index: number) => prompts[Math.floor(index / bestOf)] as Prompt;
  const writer = () => new CompletionLogprobWriter(tokenizer, Math.max(top, 0), plan.skipSpecial);
  const tokenIds = (tokens: TextDelta['tokens']) =>
    body.return_token_ids ? { token_ids: tokens.map((token) => token.id) } : {};

  /** What `echo` begins a choice with. */
  function opening(generation: TextGeneration, index: number, logprobs: CompletionLogprobWriter) {
    const prompt = promptOf(index);
    if (!body.echo) return { text: '', logprobs: null };
    const shown = wantsLogprobs && generation.prompt ? narrowed(generation.prompt, top) : null;
    if (wantsLogprobs && !shown && prompt.ids.length > 1)
      throw new Error('prompt log-probabilities were asked for and did not come');
    return {
      text: prompt.text,
      logprobs: wantsLogprobs ? logprobs.prompt(prompt.ids, shown ?? NO_PROMPT_EVENT) : null,
    };
  }

  async function* chunks(): AsyncGenerator<object> {
    const includeUsage = body.stream_options?.include_usage ?? false;
    const chunk = (choice: object | null, extra: object = {}) => ({
      ...base,
      object: 'text_completion',
      choices: choice === null ? [] : [choice],
      ...(includeUsage && { usage: null }),
      ...extra,
    });
    const writers = new Map<number, CompletionLogprobWriter>();
    for await (const { index, generation, delta } of batch.read()) {
      const finish = delta === null ? finishOf(generation, plan) : { finish_reason: null, stop_reason: null };
      let logprobs = writers.get(index);
      if (!logprobs) {
        logprobs = writer();
        writers.set(index, logprobs);
        const first = opening(generation, index, logprobs);
        const ids = body.return_token_ids ? { prompt_token_ids: Array.from(promptOf(index).ids) } : {};
        if (body.echo || body.return_token_ids) yield chunk({ index, ...first, finish_reason: null, ...ids });
      }
      if (delta?.text === '' && !wantsTokens) continue;
      yield chunk({
        index,
        text: delta?.text ?? '',
        logprobs: wantsLogprobs && delta ? logprobs.answer(delta.tokens) : null,
        ...finish,
        ...(delta && tokenIds(delta.tokens)),
      });
    }
    if (includeUsage) yield chunk(null, { usage: usageOf(batch.generations, prompts, bestOf) });
  }

  async function response(): Promise<object> {
    const answers = new Map<number, { text: string; tokens: TextDelta['tokens'] }>();
    await collect(batch, ({ index, delta }) => {
      const answer = answers.get(index) ?? { text: '', tokens: [] };
      answers.set(index, answer);
      answer.text += delta?.text ?? '';
      if (delta && wantsTokens) answer.tokens.push(...delta.tokens);
    });
    const choices = prompts.flatMap((prompt, p) => {
      const ranked = batch.generations.slice(p * bestOf, (p + 1) * bestOf).map((generation, c) => ({
        generation,
        index: p * bestOf + c,
      }));
      if (bestOf > n) ranked.sort((a, b) => score(b.generation) - score(a.generation));
      return ranked.slice(0, n).map(({ generation, index }, c) => {
        const answer = answers.get(index) as { text: string; tokens: TextDelta['tokens'] };
        const logprobs = writer();
        const first = opening(generation, index, logprobs);
        let shown: CompletionLogprobs | null = first.logprobs;
        if (wantsLogprobs) shown = appendLogprobs(shown, logprobs.answer(answer.tokens));
        return {
          index: p * n + c,
          text: first.text + answer.text,
          logprobs: shown,
          ...finishOf(generation, plan),
          ...tokenIds(answer.tokens),
          ...(body.return_token_ids && { prompt_token_ids: Array.from(prompt.ids) }),
          ...(typeof body.prompt_logprobs === 'number' && {
            prompt_logprobs: promptLogprobs(
              tokenizer,
              prompt.ids,
              narrowed(generation.prompt ?? NO_PROMPT_EVENT, body.prompt_logprobs),
            ),
          }),
        };
      });
    });
    return {
      ...base,
      object: 'text_completion',
      choices,
      usage: usageOf(batch.generations, prompts, bestOf),
    };
  }

  return { id: base.id, chunks, response, cancel: () => batch.cancel() };
}

type PromptEvent = NonNullable<TextGeneration['prompt']>;

/** A prompt of one token predicts nothing inside itself. */
const NO_PROMPT_EVENT: PromptEvent = {
  type: 'prompt',
  logprobs: new Float32Array(),
  topIds: new Int32Array(),
  topLogprobs: new Float32Array(),
  k: 0,
};

/** The first k of each row, where `echo` and `prompt_logprobs` ask for different numbers. */
function narrowed(event: PromptEvent, k: number): PromptEvent {
  if (event.k <= k) return event;
  const rows = event.logprobs.length;
  const topIds = new Int32Array(rows * k);
  const topLogprobs = new Float32Array(rows * k);
  for (let row = 0; row < rows; row++) {
    topIds.set(event.topIds.subarray(row * event.k, row * event.k + k), row * k);
    topLogprobs.set(event.topLogprobs.subarray(row * event.k, row * event.k + k), row * k);
  }
  return { ...event, k, topIds, topLogprobs };
}
