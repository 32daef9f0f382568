import { afterEach, describe, expect, it } from 'vitest';
import { babbles, type Fixture, says, serve, user } from './fixture.js';
import { namedEvents } from './named-events.js';

const URL = '/v1/messages';
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

describe('messages', () => {
  it("answer in Anthropic's shape", async () => {
    fixture = await serve(says('Hello, wörld!'));
    const body = {
      model: 'test-model',
      max_tokens: 50,
      system: [{ type: 'text', text: 'S' }],
      messages: user('Hi'),
    };
    const { status, json } = await fixture.post(URL, body);
    expect(status).toBe(200);
    expect(json).toMatchObject({
      type: 'message',
      role: 'assistant',
      model: 'test-model',
      content: [{ type: 'text', text: 'Hello, wörld!' }],
      stop_reason: 'end_turn',
      stop_sequence: null,
      usage: { output_tokens: 15, cache_read_input_tokens: 0 },
    });
    expect(json.id).toMatch(/^msg_/);
    const count = await fixture.post(`${URL}/count_tokens`, { ...body, max_tokens: undefined });
    expect(count.json).toEqual({ input_tokens: json.usage.input_tokens });
    const again = (await fixture.post(URL, body)).json.usage;
    expect(again.input_tokens + again.cache_read_input_tokens).toBe(json.usage.input_tokens);
  });

  it("stream Anthropic's events", async () => {
    fixture = await serve(says('Héé 🌍'));
    const { text } = await fixture.post(URL, { max_tokens: 50, messages: user('Hi'), stream: true });
    const events = namedEvents(text);
    const types = events.map((e) => e.type);
    expect(types.filter((t, i) => t !== types[i - 1])).toEqual([
      'message_start',
      'ping',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'message_delta',
      'message_stop',
    ]);
    expect(events[0].message).toMatchObject({ content: [], stop_reason: null });
    expect(events[0].message.usage.input_tokens).toBeGreaterThan(0);
    expect(events.map((e) => e.delta?.text ?? '').join('')).toBe('Héé 🌍');
    expect(events.at(-2)).toMatchObject({ delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 11 } });
  });

  it('say why they ended', async () => {
    fixture = await serve(says('one two three'));
    const cut = await fixture.post(URL, {
      max_tokens: 50,
      messages: user('a'),
      stop_sequences: ['two', 'x'],
    });
    expect(cut.json).toMatchObject({
      content: [{ text: 'one ' }],
      stop_reason: 'stop_sequence',
      stop_sequence: 'two',
    });
    const short = await fixture.post(URL, { max_tokens: 3, messages: user('a') });
    expect(short.json).toMatchObject({ content: [{ text: 'one' }], stop_reason: 'max_tokens' });
  });

  it('continue a last turn of the assistant', async () => {
    let prompt = '';
    fixture = await serve((ids, generated) => {
      prompt = fixture.service.model.tokenizer.decode(ids, { skipSpecial: false });
      return generated === 0 ? 100 : 2;
    });
    const messages = [...user('a'), { role: 'assistant', content: 'The answer is' }];
    await fixture.post(URL, { max_tokens: 3, messages });
    expect(prompt.endsWith('<|im_start|>assistant\nThe answer is')).toBe(true);
  });

  it.each([
    [{ messages: [], max_tokens: 1 }, 400, 'invalid_request_error'],
    [{ messages: user('a') }, 400, 'invalid_request_error'],
    [{ messages: user('a'), max_tokens: 1, model: 'claude' }, 404, 'not_found_error'],
    [
      { messages: [{ role: 'user', content: [{ type: 'image', source: {} }] }], max_tokens: 1 },
      400,
      'invalid_request_error',
    ],
    [{ messages: user('a'), max_tokens: 1, temperature: 9 }, 400, 'invalid_request_error'],
    ['{"messages', 400, 'invalid_request_error'],
  ])("refuse %j in Anthropic's shape", async (body, status, type) => {
    fixture = await serve(babbles);
    const answer = await fixture.post(URL, body);
    expect(answer.status).toBe(status);
    expect(answer.json).toMatchObject({ type: 'error', error: { type } });
    expect(answer.json.error.message).toBeTruthy();
    expect(answer.json.request_id).toBe(answer.headers['x-request-id']);
  });

  it('keep the shape for keys, unknown paths, wrong methods and a full queue', async () => {
    fixture = await serve(babbles, { server: { apiKeys: ['good'] } });
    const body = { messages: user('a'), max_tokens: 1 };
    expect((await fixture.post(URL, body)).json.error.type).toBe('authentication_error');
    expect((await fixture.post(URL, body, { 'x-api-key': 'good' })).status).toBe(200);
    expect((await fixture.post(`${URL}/none`, body)).json.error.type).toBe('not_found_error');
    const wrong = await fixture.app.inject({ method: 'GET', url: URL });
    expect([wrong.statusCode, wrong.json().type]).toEqual([405, 'error']);
    await fixture.service.lifecycle.drain(0);
    const full = await fixture.post(URL, body, { 'x-api-key': 'good' });
    expect([full.status, full.json.error.type]).toEqual([503, 'overloaded_error']);
  });

  it('end a stream that fails with an error event', async () => {
    fixture = await serve((_prompt, generated) => (generated === 3 ? 'nan' : 100));
    const body = { max_tokens: 9, messages: user('Hi'), stream: true };
    const events = namedEvents((await fixture.post(URL, body)).text);
    expect(events.at(-1)).toMatchObject({ type: 'error', error: { type: 'api_error' } });
  });
});
