import { afterEach, describe, expect, it } from 'vitest';
import { ResponseStore } from '../../../src/server/responses/store.js';
import { babbles, type Fixture, type Json, says, serve, until, user } from './fixture.js';
import { namedEvents } from './named-events.js';

const URL = '/v1/responses';
let fixture: Fixture;
afterEach(async () => {
  fixture?.engine.check();
  await fixture?.close();
});

const get = async (id: string, suffix = '') =>
  (await fixture.app.inject({ method: 'GET', url: `${URL}/${id}${suffix}` })).json() as Json;

/** What the fake model was asked, as text. */
const asked = () => {
  const seen: string[] = [];
  const open = fixture.runner.openSlot.bind(fixture.runner);
  fixture.runner.openSlot = (slot, params, prompt, output) => {
    seen.push(fixture.service.model.tokenizer.decode(prompt, { skipSpecial: false }));
    open(slot, params, prompt, output);
  };
  return seen;
};

describe('responses', () => {
  it('answer in the shape of the API', async () => {
    fixture = await serve(says('Hello, wörld 🌍!'));
    const body = { model: 'test-model', input: 'Hi', instructions: 'Be brief.', metadata: { a: 'b' } };
    const seen = asked();
    const { status, json } = await fixture.post(URL, body);
    expect(status).toBe(200);
    expect(json).toMatchObject({
      object: 'response',
      status: 'completed',
      error: null,
      incomplete_details: null,
      instructions: 'Be brief.',
      metadata: { a: 'b' },
      model: 'test-model',
      output: [
        {
          type: 'message',
          role: 'assistant',
          status: 'completed',
          content: [{ type: 'output_text', text: 'Hello, wörld 🌍!', annotations: [] }],
        },
      ],
      usage: { output_tokens: 20, output_tokens_details: { reasoning_tokens: 0 } },
    });
    expect(json.id).toMatch(/^resp_[\da-f]{32}$/);
    expect(seen[0]).toContain('<|im_start|>system\nBe brief.<|im_end|>');
  });

  it('stream events whose pieces are the whole answer', async () => {
    fixture = await serve(says('Héé 🌍'));
    const { text, headers } = await fixture.post(URL, { input: 'Hi', stream: true });
    expect(headers['content-type']).toContain('text/event-stream');
    const events = namedEvents(text);
    expect(events.map((e) => e.sequence_number)).toEqual(events.map((_, i) => i));
    const types = events.map((e) => e.type.replace('response.', ''));
    expect(types.filter((t, i) => t !== types[i - 1])).toEqual([
      'created',
      'in_progress',
      'output_item.added',
      'content_part.added',
      'output_text.delta',
      'output_text.done',
      'content_part.done',
      'output_item.done',
      'completed',
    ]);
    const deltas = events.filter((e) => e.type === 'response.output_text.delta');
    expect(deltas.map((e) => e.delta).join('')).toBe('Héé 🌍');
    const last = events.at(-1).response;
    expect(last.output[0].content[0].text).toBe('Héé 🌍');
    expect(await get(last.id)).toEqual(last);
  });

  it('go on from a stored response, without its instructions', async () => {
    fixture = await serve(says('First.'));
    const seen = asked();
    const first = (await fixture.post(URL, { input: 'One', instructions: 'Old rules.' })).json;
    fixture.runner.script = says('Second.');
    const second = (await fixture.post(URL, { input: 'Two', previous_response_id: first.id })).json;
    expect(second.previous_response_id).toBe(first.id);
    expect(seen[1]).toBe(
      '<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\nFirst.<|im_end|>\n<|im_start|>user\nTwo<|im_end|>\n<|im_start|>assistant\n',
    );
    const items = await get(second.id, '/input_items');
    expect(items.data).toMatchObject([{ role: 'user', content: [{ type: 'input_text', text: 'Two' }] }]);
  });

  it('list what they answered in pages, newest or oldest first', async () => {
    fixture = await serve(says('x'));
    const input = Array.from({ length: 23 }, (_, i) => ({ role: 'user', content: `m${i}`, id: `msg_${i}` }));
    const { id } = (await fixture.post(URL, { input })).json;
    const page = async (query: string) => {
      const { data, first_id, last_id, has_more } = await get(id, `/input_items${query}`);
      return [data.length, first_id, last_id, has_more];
    };
    expect(await page('')).toEqual([20, 'msg_22', 'msg_3', true]);
    expect(await page('?after=msg_3')).toEqual([3, 'msg_2', 'msg_0', false]);
    expect(await page('?order=asc&limit=2&after=msg_4')).toEqual([2, 'msg_5', 'msg_6', true]);
    for (const [query, param] of [
      ['?limit=0', 'limit'],
      ['?order=up', 'order'],
      ['?after=msg_99', 'after'],
    ])
      expect((await get(id, `/input_items${query}`)).error.param).toBe(param);
    expect((await get(id, '?stream=true')).error.param).toBe('stream');
  });

  it('are kept unless told not to, and forgotten on request', async () => {
    fixture = await serve(says('x'));
    const { id } = (await fixture.post(URL, { input: 'a', store: false })).json;
    expect((await get(id)).error.code).toBe('not_found');
    const kept = (await fixture.post(URL, { input: 'a' })).json.id;
    expect((await get(kept)).status).toBe('completed');
    // As OpenAI's Python client sends it: a DELETE that announces JSON and has none.
    const headers = { 'content-type': 'application/json' };
    const gone = await fixture.app.inject({ method: 'DELETE', url: `${URL}/${kept}`, headers });
    expect(gone.json()).toEqual({ id: kept, object: 'response', deleted: true });
    expect((await get(kept)).error.code).toBe('not_found');
    const next = await fixture.post(URL, { input: 'b', previous_response_id: kept });
    expect([next.status, next.json.error.param]).toEqual([404, 'previous_response_id']);
  });

  it('run in the background, and are cancelled there', async () => {
    fixture = await serve(babbles);
    fixture.runner.stepMs = 5;
    const body = { input: 'a', background: true, ignore_eos: true };
    const short = (await fixture.post(URL, { ...body, max_output_tokens: 5 })).json;
    expect(short.status).toBe('in_progress');
    const early = await fixture.post(URL, { input: 'b', previous_response_id: short.id });
    expect(early.status).toBe(400);
    await until('it ends', () => fixture.service.lifecycle.active === 0);
    const done = await get(short.id);
    expect(done).toMatchObject({ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } });
    expect(done.output[0]).toMatchObject({ status: 'incomplete' });
    expect(done.output[0].content[0].text).toHaveLength(5);

    const long = (await fixture.post(URL, { ...body, max_output_tokens: 300 })).json;
    await until('it runs', () => fixture.engine.stats().running > 0);
    const cancelled = await fixture.app.inject({ method: 'POST', url: `${URL}/${long.id}/cancel` });
    expect(cancelled.json().status).toBe('cancelled');
    await until(
      'it is gone',
      () => fixture.engine.stats().usedBlocks === 0 && fixture.service.lifecycle.active === 0,
    );
    expect((await get(long.id)).status).toBe('cancelled');

    const dropped = (await fixture.post(URL, { ...body, max_output_tokens: 300 })).json;
    await fixture.app.inject({ method: 'DELETE', url: `${URL}/${dropped.id}` });
    await until('it is gone', () => fixture.service.lifecycle.active === 0);
    expect((await get(dropped.id)).error.code).toBe('not_found');
    const plain = (await fixture.post(URL, { input: 'a', max_output_tokens: 1 })).json;
    const refused = await fixture.app.inject({ method: 'POST', url: `${URL}/${plain.id}/cancel` });
    expect(refused.statusCode).toBe(400);
  });

  it('give log-probabilities where they are included', async () => {
    fixture = await serve(says('é!'));
    const { json } = await fixture.post(URL, {
      input: 'a',
      include: ['message.output_text.logprobs'],
      top_logprobs: 2,
    });
    const { logprobs } = json.output[0].content[0];
    expect(logprobs).toHaveLength(4);
    expect(logprobs[2]).toMatchObject({ token: '!', top_logprobs: [{}, {}] });
  });

  it('drop the oldest messages under truncation: auto alone', async () => {
    fixture = await serve(says('x'), { runner: { maxModelLen: 200 } });
    const input = Array.from({ length: 12 }, (_, i) => ({ role: 'user', content: `message ${i} of many` }));
    const refused = await fixture.post(URL, { input });
    expect([refused.status, refused.json.error.code, refused.json.error.param]).toEqual([
      400,
      'context_length_exceeded',
      'input',
    ]);
    const seen = asked();
    expect((await fixture.post(URL, { input, truncation: 'auto' })).status).toBe(200);
    expect(seen[0]).toContain('message 11 of many');
    expect(seen[0]).not.toContain('message 0 of many');
  });

  it('read items of every kind that is text', async () => {
    fixture = await serve(says('x'));
    const seen = asked();
    const input = [
      { role: 'developer', content: [{ type: 'input_text', text: 'D' }] },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'A', annotations: [] }] },
      { type: 'reasoning', summary: [] },
      ...user('U'),
    ];
    expect((await fixture.post(URL, { input })).status).toBe(200);
    expect(seen[0]).toBe(
      '<|im_start|>system\nD<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it.each([
    [{ input: [] }, 'input'],
    [{ input: [{ role: 'king', content: 'x' }] }, 'input[0].role'],
    [
      { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }] },
      'input[0].content[0].type',
    ],
    [{ input: [{ type: 'function_call', name: 'f' }] }, 'input[0].call_id'],
    [{ input: [{ type: 'computer_call' }] }, 'input[0].type'],
    [{ input: 'a', tools: [{ type: 'web_search' }] }, 'tools[0].type'],
    [{ input: 'a', max_output_tokens: 0 }, 'max_output_tokens'],
    [{ input: 'a', max_output_tokens: 9999 }, 'input'],
    [{ input: 'a', background: true, store: false }, 'background'],
    [{ input: 'a', background: true, stream: true }, 'background'],
    [{ input: 'refuse' }, 'input'],
  ])('refuse %j', async (body, param) => {
    fixture = await serve(says('x'));
    const { status, json } = await fixture.post(URL, body);
    expect([status, json.error.param]).toEqual([400, param]);
  });

  it('end a stream that fails with an error event', async () => {
    fixture = await serve((_prompt, generated) => (generated === 3 ? 'nan' : 100));
    const events = namedEvents((await fixture.post(URL, { input: 'Hi', stream: true })).text);
    expect(events.at(-1)).toMatchObject({ type: 'error', code: 'non_finite_logits' });
  });
});

describe('the store', () => {
  const stored = (id: string, text: string) => ({
    response: { id },
    input: [],
    messages: [{ role: 'user' as const, content: text }],
    cancel: null,
  });

  it('drops the oldest, by number and by size', () => {
    const store = new ResponseStore(3, 2000);
    for (const id of ['a', 'b', 'c', 'd']) store.put(stored(id, 'x'));
    expect(['a', 'b', 'c', 'd'].filter((id) => store.has(id))).toEqual(['b', 'c', 'd']);
    store.put(stored('e', 'y'.repeat(1930)));
    expect(store.count).toBe(1);
    store.put(stored('f', 'z'.repeat(5000)));
    expect(store.count).toBe(0);
  });
});
