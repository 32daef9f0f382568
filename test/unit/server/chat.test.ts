import { afterEach, describe, expect, it } from 'vitest';
import { babbles, events, type Fixture, type Json, says, serve, user } from './fixture.js';

const CHAT = '/v1/chat/completions';
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

describe('chat completions', () => {
  it('answers in the shape of the API', async () => {
    fixture = await serve(says('Hello, wörld 🌍!'));
    const { status, json, headers } = await fixture.post(CHAT, { model: 'test-model', messages: user('Hi') });
    expect(status).toBe(200);
    expect(json).toMatchObject({
      object: 'chat.completion',
      model: 'test-model',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello, wörld 🌍!' },
          finish_reason: 'stop',
          stop_reason: null,
          logprobs: null,
        },
      ],
    });
    expect(json.id).toMatch(/^chatcmpl-/);
    // The bytes of the text and the end of sequence; the template's 3 + 'user\nHi' ... in bytes.
    const prompt = '\nuser\nHi'.length - 1 + 1 + 1 + 1 + 1 + 'assistant\n'.length;
    expect(json.usage.completion_tokens).toBe(Buffer.byteLength('Hello, wörld 🌍!') + 1);
    expect(json.usage.prompt_tokens).toBe(prompt);
    expect(headers['x-request-id']).toBeTruthy();
  });

  it('streams the role once, the text, the reason, the usage where asked, and DONE', async () => {
    fixture = await serve(says('Héé 🌍'));
    const body = { messages: user('Hi'), stream: true, stream_options: { include_usage: true } };
    const { text, headers } = await fixture.post(CHAT, body);
    expect(headers['content-type']).toContain('text/event-stream');
    const { chunks, done } = events(text);
    expect(done).toBe(true);
    expect(new Set(chunks.map((c) => c.id)).size).toBe(1);
    expect(new Set(chunks.map((c) => c.created)).size).toBe(1);
    expect(chunks.filter((c) => c.choices[0]?.delta.role)).toEqual([chunks[0]]);
    expect(chunks.map((c) => c.choices[0]?.delta.content ?? '').join('')).toBe('Héé 🌍');
    expect(chunks.at(-2).choices[0]).toMatchObject({ delta: {}, finish_reason: 'stop' });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 11 } });
    expect(chunks.slice(0, -1).every((c) => c.usage === null)).toBe(true);
    for (const chunk of chunks) expect(JSON.stringify(chunk)).not.toContain('\ufffd');
  });

  it('leaves the usage chunk out unless asked', async () => {
    fixture = await serve(says('x'));
    const { chunks } = events((await fixture.post(CHAT, { messages: user('Hi'), stream: true })).text);
    expect(chunks.every((c) => c.choices.length === 1 && !('usage' in c))).toBe(true);
  });

  it('ends at a stop string, and keeps it where asked', async () => {
    fixture = await serve(says('one two three four'));
    const stop = ['two th', 'zzz'];
    const cut = await fixture.post(CHAT, { messages: user('a'), stop });
    expect(cut.json.choices[0]).toMatchObject({
      message: { content: 'one ' },
      finish_reason: 'stop',
      stop_reason: 'two th',
    });
    expect(cut.json.usage.completion_tokens).toBe('one two th'.length);
    const kept = await fixture.post(CHAT, {
      messages: user('a'),
      stop: 'two',
      include_stop_str_in_output: true,
    });
    expect(kept.json.choices[0].message.content).toBe('one two');
  });

  it('looks for stop strings only after min_tokens', async () => {
    fixture = await serve(says('aXbXc'));
    const { json } = await fixture.post(CHAT, { messages: user('a'), stop: 'X', min_tokens: 2 });
    expect(json.choices[0].message.content).toBe('aXb');
  });

  it('ends at a stop token and names it', async () => {
    fixture = await serve(says('abc'));
    const id = 'b'.charCodeAt(0) + 3;
    const { json } = await fixture.post(CHAT, { messages: user('a'), stop_token_ids: [id] });
    expect(json.choices[0]).toMatchObject({
      message: { content: 'a' },
      finish_reason: 'stop',
      stop_reason: id,
    });
    const ignoring = await fixture.post(CHAT, { messages: user('a'), ignore_eos: true, max_tokens: 6 });
    expect(ignoring.json.choices[0]).toMatchObject({ message: { content: 'abc' }, finish_reason: 'length' });
    const shown = { messages: user('a'), ignore_eos: true, max_tokens: 4, skip_special_tokens: false };
    expect((await fixture.post(CHAT, shown)).json.choices[0].message.content).toBe('abc<|im_end|>');
  });

  it('gives log-probabilities with bytes and the most likely tokens', async () => {
    fixture = await serve(says('é!'));
    const { json } = await fixture.post(CHAT, { messages: user('a'), logprobs: true, top_logprobs: 2 });
    const { content } = json.choices[0].logprobs;
    expect(content).toHaveLength(4);
    expect(content[0]).toMatchObject({ token: 'bytes:\\xc3', bytes: [0xc3], top_logprobs: [{}, {}] });
    expect(content[0].logprob).toBeCloseTo(-0.1);
    expect(content[2]).toMatchObject({ token: '!', bytes: [33] });
    expect(content[2].top_logprobs[1]).toMatchObject({ token: '"', bytes: [34] });
  });

  it('streams the same log-probabilities as it gives whole', async () => {
    fixture = await serve(says('naïve 🌍 stop here'));
    const body = { messages: user('a'), logprobs: true, top_logprobs: 3, stop: 'here' };
    const whole = (await fixture.post(CHAT, body)).json.choices[0];
    const { chunks } = events((await fixture.post(CHAT, { ...body, stream: true })).text);
    const choices = chunks.map((c) => c.choices[0]);
    expect(choices.flatMap((c) => c.logprobs?.content ?? [])).toEqual(whole.logprobs.content);
    expect(choices.map((c) => c.delta.content ?? '').join('')).toBe(whole.message.content);
  });

  it('gives n different choices, the same again under a seed', async () => {
    fixture = await serve(babbles);
    const body = { messages: user('a'), n: 3, seed: 7, max_tokens: 20 };
    const first = (await fixture.post(CHAT, body)).json;
    const second = (await fixture.post(CHAT, body)).json;
    const texts = first.choices.map((c: Json) => c.message.content);
    expect(new Set(texts).size).toBe(3);
    expect(second.choices.map((c: Json) => c.message.content)).toEqual(texts);
    expect(first.usage.completion_tokens).toBe(60);
    const { chunks } = events((await fixture.post(CHAT, { ...body, stream: true })).text);
    for (const index of [0, 1, 2]) {
      const own = chunks.filter((c) => c.choices[0].index === index).map((c) => c.choices[0].delta);
      expect(own.map((d) => d.content ?? '').join('')).toBe(texts[index]);
      expect(own.filter((d) => d.role)).toHaveLength(1);
    }
  });

  it('continues the final message', async () => {
    fixture = await serve(says('!'));
    const messages = [...user('a'), { role: 'assistant', content: 'Once' }];
    const body = {
      messages,
      continue_final_message: true,
      add_generation_prompt: false,
      return_token_ids: true,
    };
    const { json } = await fixture.post(CHAT, { ...body, echo: true });
    expect(json.choices[0].message.content).toBe('Once!');
    expect(Buffer.from(json.prompt_token_ids.slice(-4).map((id: number) => id - 3)).toString()).toBe('Once');
    expect(json.choices[0].token_ids).toEqual(['!'.charCodeAt(0) + 3, 2]);
  });

  it('takes content parts, and nulls for what is left out', async () => {
    fixture = await serve(says('ok'));
    const { status, json } = await fixture.post(CHAT, {
      messages: [
        { role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
          name: null,
        },
      ],
      stop: null,
      seed: null,
      temperature: null,
      max_tokens: null,
      response_format: { type: 'text' },
      logit_bias: null,
      tools: [],
      tool_choice: 'none',
      something_new: 1,
    });
    expect(status).toBe(200);
    expect(json.choices[0].message.content).toBe('ok');
  });

  it('reports prompt log-probabilities and cached tokens', async () => {
    fixture = await serve(says('ok'));
    const messages = user('a prompt that is long enough to fill a few blocks of the cache');
    const { json } = await fixture.post(CHAT, { messages, prompt_logprobs: 1 });
    expect(json.prompt_logprobs[0]).toBeNull();
    expect(json.prompt_logprobs).toHaveLength(json.usage.prompt_tokens);
    const again = await fixture.post(CHAT, { messages });
    expect(again.json.usage.prompt_tokens_details.cached_tokens).toBeGreaterThan(0);
  });

  it('truncates the prompt only where asked', async () => {
    fixture = await serve(says('ok'));
    const { json } = await fixture.post(CHAT, { messages: user('abcdefghij'), truncate_prompt_tokens: 5 });
    expect(json.usage.prompt_tokens).toBe(5);
  });

  it('spelled control tokens stay text', async () => {
    fixture = await serve(says('ok'));
    const { json } = await fixture.post('/tokenize', { messages: user('<|im_end|>') });
    expect(json.tokens.filter((id: number) => id < 3)).toHaveLength(3);
  });
});
