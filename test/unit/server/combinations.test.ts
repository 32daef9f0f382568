import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { byteId, events, type Fixture, type Json, says, serve, until, user } from './fixture.js';
import { serveTiny, type TinyServer } from './tiny-service.js';

const COMPLETE = '/v1/completions';
const CHAT = '/v1/chat/completions';

describe('a constraint on the real engine, together with', () => {
  let tiny: TinyServer;
  beforeAll(async () => {
    tiny = await serveTiny();
  });
  afterAll(() => tiny.close());
  afterEach(async () => {
    tiny.engine.check();
    await until('every block is free', () => tiny.engine.stats().usedBlocks === 0);
  });

  const id = (text: string) => tiny.tokenizer.tokenId(text) as number;
  /** Choices of a completion under a regular expression. */
  const complete = async (regex: string, extra: Json = {}): Promise<Json[]> => {
    const body = { prompt: 'the', max_tokens: 60, seed: 11, structured_outputs: { regex }, ...extra };
    const { status, json, text } = await tiny.post(COMPLETE, body);
    expect(status, text).toBe(200);
    return json.choices;
  };
  const texts = (choices: Json[]): string[] => choices.map((choice) => choice.text);

  it('min_tokens: the text goes on, within its form, as long as was asked', async () => {
    for (const min_tokens of [0, 5, 17]) {
      const [choice] = await complete('[a-d]{1,40}', { min_tokens, return_token_ids: true });
      expect(choice.text).toMatch(/^[a-d]{1,40}$/);
      expect(choice.token_ids.length).toBeGreaterThanOrEqual(min_tokens);
      expect(choice.finish_reason).toBe('stop');
    }
  });

  it('min_tokens beyond the form: the text ends where it is complete', async () => {
    const [choice] = await complete('[a-d]{3}', { min_tokens: 9 });
    expect(choice).toMatchObject({ finish_reason: 'stop', text: expect.stringMatching(/^[a-d]{3}$/) });
  });

  it('bad_words and allowed_token_ids: only what both allow', async () => {
    expect(texts(await complete('[abc]{9}', { bad_words: ['a', 'c'] }))).toEqual(['b'.repeat(9)]);
    expect(texts(await complete('[a-z]{6}', { allowed_token_ids: [id('q'), id('r'), 0] }))[0]).toMatch(
      /^[qr]{6}$/,
    );
    const { status, json } = await tiny.post(COMPLETE, {
      prompt: 'the',
      structured_outputs: { regex: '[abc]{9}' },
      bad_words: ['a', 'b', 'c'],
    });
    expect([status, json.error.code]).toEqual([400, 'no_token_allowed']);
  });

  it('logit_bias: the favourite of those that the form allows', async () => {
    const logit_bias = { [id('z')]: 100, [id('b')]: 50 };
    expect(texts(await complete('[a-d]{7}', { logit_bias }))).toEqual(['b'.repeat(7)]);
  });

  it('stop: cut at the string, which is reported; not before min_tokens', async () => {
    const logit_bias = { [id('a')]: 50 };
    const [cut] = await complete('[a-d]{20}', { logit_bias, stop: ['aaa', 'x'] });
    expect(cut).toMatchObject({ text: '', finish_reason: 'stop', stop_reason: 'aaa' });
    const [later] = await complete('[a-d]{20}', { logit_bias, stop: ['aaa'], min_tokens: 8 });
    expect(later.text.length).toBeGreaterThanOrEqual(5);
    expect(later.stop_reason).toBe('aaa');
  });

  it('n and seed: choices apart from each other, each of the form, the same again', async () => {
    const ask = async () => texts(await complete('[a-z]{4,12}', { n: 5, temperature: 1.5 }));
    const first = await ask();
    for (const text of first) expect(text).toMatch(/^[a-z]{4,12}$/);
    expect(new Set(first).size).toBeGreaterThan(2);
    expect(await ask()).toEqual(first);
  });

  it('best_of: the likeliest, and of the form', async () => {
    const many = await complete('[a-z]{4,8}', { n: 6, logprobs: 0, temperature: 1.5 });
    const mean = ({ logprobs: { token_logprobs: p } }: Json) =>
      p.reduce((a: number, b: number) => a + b, 0) / p.length;
    const best = many.reduce((a, b) => (mean(b) > mean(a) ? b : a));
    const [chosen] = await complete('[a-z]{4,8}', { n: 1, best_of: 6, logprobs: 0, temperature: 1.5 });
    expect(chosen.text).toBe(best.text);
  });

  it('logprobs: one for each token, also where the form left no choice', async () => {
    const [choice] = await complete('the (cat|dog) on the', { logprobs: 3, return_token_ids: true });
    expect(choice.text).toMatch(/^the (cat|dog) on the$/);
    const { tokens, token_logprobs } = choice.logprobs;
    expect(tokens.length).toBe(choice.token_ids.length);
    for (const p of token_logprobs) expect(p).toBeLessThanOrEqual(0);
    const [bare] = await complete('the (cat|dog) on the');
    expect(bare.text).toBe(choice.text);
  });

  it('a stream: the same text in pieces', async () => {
    const body = {
      prompt: 'an',
      seed: 4,
      max_tokens: 40,
      structured_outputs: { regex: '(the|an|on|in)( [a-f]{2,5}){3}' },
    };
    const whole = await tiny.post(COMPLETE, body);
    const { chunks, done } = events((await tiny.post(COMPLETE, { ...body, stream: true })).text);
    expect(done).toBe(true);
    expect(chunks.map((c: Json) => c.choices[0]?.text ?? '').join('')).toBe(whole.json.choices[0].text);
  });

  it('preemption: every answer as if it had been alone', async () => {
    const asks = Array.from({ length: 12 }, (_, i) => ({
      prompt: 'then an inner one. '.repeat(1 + (i % 3)),
      seed: i,
      temperature: 1.2,
      max_tokens: 64,
      min_tokens: 40,
      structured_outputs: { regex: i % 2 ? '([a-m]{3,5} ?)*' : '[n-z .]{45,70}' },
      ...(i % 3 === 0 && { logprobs: 1 }),
    }));
    const alone: string[] = [];
    for (const body of asks) alone.push((await tiny.post(COMPLETE, body)).json.choices[0].text);
    const pressed = await serveTiny({ blocks: 14, engine: { prefixCache: false } });
    try {
      const together = await Promise.all(asks.map((body) => pressed.post(COMPLETE, body)));
      expect(together.map(({ json }) => json?.choices?.[0]?.text)).toEqual(alone);
      expect(pressed.engine.stats().preemptions).toBeGreaterThan(0);
      expect(pressed.engine.stats().usedBlocks).toBe(0);
      pressed.engine.check();
    } finally {
      await pressed.close();
    }
  });

  it('cache_salt: blocks are shared under the same salt alone', async () => {
    const prompt = 'on the other and the inner one. '.repeat(2);
    const cached = async (cache_salt?: string) =>
      (await tiny.post(COMPLETE, { prompt, max_tokens: 1, ...(cache_salt && { cache_salt }) })).json.usage
        .prompt_tokens_details.cached_tokens;
    expect(await cached('a')).toBe(0);
    expect(await cached('a')).toBeGreaterThan(0);
    expect(await cached('b')).toBe(0);
    expect(await cached()).toBe(0);
    expect(await cached()).toBeGreaterThan(0);
    expect(await cached('b')).toBeGreaterThan(0);
  });
});

describe('the chat template, together with', () => {
  let fixture: Fixture;
  afterEach(() => fixture.close());
  const parameters = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
  const tools = [{ type: 'function', function: { name: 'f', parameters } }];

  it('tools and continue_final_message: the call that was begun is finished', async () => {
    const begun = '<tool_call>[{"name": "f", "argu';
    fixture = await serve(says('ments": {"a": 7}}]</tool_call>'), { runner: { maxModelLen: 4096 } });
    const body = {
      messages: [...user('go'), { role: 'assistant', content: begun }],
      continue_final_message: true,
      add_generation_prompt: false,
    };
    const rendered = await fixture.post('/apply-template', { ...body, tools });
    expect(rendered.json.prompt.endsWith(begun)).toBe(true);
    expect(rendered.json.prompt).toContain('"name":"f"');
    const { status, json } = await fixture.post(CHAT, { ...body, tools, tool_choice: 'auto' });
    expect(status).toBe(200);
    const [{ message }] = json.choices;
    // What went before is the client's: the answer is the rest, as text.
    expect(message.content + (message.tool_calls ?? []).join('')).toBe('ments": {"a": 7}}]</tool_call>');
  });

  it('chat_template_kwargs: variables reach the template; its own cannot be taken', async () => {
    const template =
      "{{ style | default('plain') }}:{{ messages[0].content }}{{ '!' if add_generation_prompt }}";
    fixture = await serve(says('x'), { template });
    const render = async (extra: Json) =>
      await fixture.post('/apply-template', { messages: user('q'), ...extra });
    expect((await render({})).json.prompt).toBe('plain:q!');
    expect((await render({ chat_template_kwargs: { style: 'terse' } })).json.prompt).toBe('terse:q!');
    const counted = await fixture.post(CHAT, {
      messages: user('q'),
      chat_template_kwargs: { style: 'a much longer style' },
      max_tokens: 1,
    });
    expect(counted.json.usage.prompt_tokens).toBe('a much longer style:q!'.length);
    const refused = await render({ chat_template_kwargs: { messages: [] } });
    expect([refused.status, refused.json.error.param]).toEqual([400, 'chat_template_kwargs']);
  });

  it('best_of and n: as many as n, never fewer than best_of was', async () => {
    fixture = await serve((_prompt, generated, seed) =>
      generated < 3 ? byteId(97 + Number(seed % 20n)) : 2,
    );
    const ask = (extra: Json) => fixture.post(COMPLETE, { prompt: 'a', max_tokens: 8, ...extra });
    const { json } = await ask({ n: 2, best_of: 4, seed: 1 });
    expect(json.choices.map((c: Json) => c.index)).toEqual([0, 1]);
    expect(json.usage.completion_tokens).toBe(16);
    for (const wrong of [
      { n: 3, best_of: 2 },
      { n: 1, best_of: 2, stream: true },
    ])
      expect((await ask(wrong)).json.error.param).toBe('best_of');
  });
});

describe('suffix', () => {
  let fixture: Fixture;
  afterEach(() => fixture.close());
  const controls = ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|fim_pad|>'];

  it.each([false, true])('asks for the middle with the tokens of the model (stream: %s)', async (stream) => {
    const seen: string[] = [];
    fixture = await serve(
      (prompt, generated) => {
        if (generated === 0)
          seen.push(fixture.service.model.tokenizer.decode(prompt, { skipSpecial: false }));
        // The pad ends the middle, though it is no end of sequence.
        return generated < 3 ? byteId('mid'.charCodeAt(generated)) : 259 + 3;
      },
      { controls },
    );
    const body = { prompt: 'def <|fim_middle|>(', suffix: ') end<|im_end|>', max_tokens: 20 };
    const answer = await fixture.post(COMPLETE, { ...body, stream });
    expect(answer.status).toBe(200);
    expect(seen).toEqual(['<|fim_prefix|>def <|fim_middle|>(<|fim_suffix|>) end<|im_end|><|fim_middle|>']);
    const choices = stream ? events(answer.text).chunks.map((c: Json) => c.choices[0]) : answer.json.choices;
    expect(choices.map((c: Json) => c.text).join('')).toBe('mid');
    expect(choices.at(-1)).toMatchObject({ finish_reason: 'stop' });
  });

  it('what it spells stays text', async () => {
    let ids = new Int32Array();
    fixture = await serve(
      (prompt) => {
        ids = prompt.slice();
        return 2;
      },
      { controls },
    );
    await fixture.post(COMPLETE, { prompt: '<|fim_suffix|>x', suffix: 'y<|fim_middle|>' });
    const { tokenizer } = fixture.service.model;
    expect([...ids].filter((id) => tokenizer.isControl(id))).toEqual([259, 260, 261]);
  });

  it('is a 400 where the model has no such tokens, or the request no single text', async () => {
    fixture = await serve(says('x'));
    const refused = await fixture.post(COMPLETE, { prompt: 'a', suffix: 'b' });
    expect([refused.status, refused.json.error.param]).toEqual([400, 'suffix']);
    await fixture.close();
    fixture = await serve(says('x'), { controls });
    for (const extra of [
      { prompt: ['a', 'b'] },
      { prompt: [5, 6] },
      { prompt: 'a', truncate_prompt_tokens: 3 },
    ]) {
      const { status, json } = await fixture.post(COMPLETE, { suffix: 'b', ...extra });
      expect([status, json.error.param]).toEqual([400, 'suffix']);
    }
  });
});
