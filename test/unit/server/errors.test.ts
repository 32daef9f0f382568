import { afterEach, describe, expect, it } from 'vitest';
import { EOS, events, type Fixture, type Json, says, serve, until, user } from './fixture.js';

const CHAT = '/v1/chat/completions';
const COMPLETE = '/v1/completions';
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

function expectShape(json: Json): void {
  expect(Object.keys(json)).toEqual(['error']);
  expect(Object.keys(json.error).sort()).toEqual(['code', 'message', 'param', 'type']);
  expect(json.error.message).toBeTypeOf('string');
  expect(json.error.message).not.toMatch(/\/work|node_modules|\.ts:|\.js:/);
}

const chat = { messages: user('a') };
const text = { prompt: 'a' };

/** [route, body, status, code, param] */
const refused: [string, object, number, string, string | null][] = [
  [CHAT, {}, 400, 'invalid_value', 'messages'],
  [CHAT, { messages: [] }, 400, 'invalid_value', 'messages'],
  [CHAT, { messages: 'hi' }, 400, 'invalid_value', 'messages'],
  [CHAT, { messages: [{ role: 'king', content: 'a' }] }, 400, 'invalid_value', 'messages[0].role'],
  [CHAT, { messages: [{ role: 'user', content: 5 }] }, 400, 'invalid_value', 'messages[0].content'],
  [CHAT, { messages: [{ role: 'user' }] }, 400, 'invalid_value', 'messages[0].content'],
  [
    CHAT,
    { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }] },
    400,
    'unsupported_value',
    'messages[0].content[0].type',
  ],
  [CHAT, { ...chat, temperature: 2.5 }, 400, 'invalid_value', 'temperature'],
  [CHAT, { ...chat, temperature: -0.1 }, 400, 'invalid_value', 'temperature'],
  [CHAT, { ...chat, temperature: 'hot' }, 400, 'invalid_value', 'temperature'],
  [CHAT, { ...chat, top_p: 1.5 }, 400, 'invalid_value', 'top_p'],
  [CHAT, { ...chat, top_k: -2 }, 400, 'invalid_value', 'top_k'],
  [CHAT, { ...chat, min_p: 2 }, 400, 'invalid_value', 'min_p'],
  [CHAT, { ...chat, repetition_penalty: 0 }, 400, 'invalid_value', 'repetition_penalty'],
  [CHAT, { ...chat, frequency_penalty: 3 }, 400, 'invalid_value', 'frequency_penalty'],
  [CHAT, { ...chat, presence_penalty: -3 }, 400, 'invalid_value', 'presence_penalty'],
  [CHAT, { ...chat, logit_bias: { 5: 101 } }, 400, 'invalid_value', 'logit_bias[5]'],
  [CHAT, { ...chat, logit_bias: { x: 1 } }, 400, 'invalid_value', 'logit_bias'],
  [CHAT, { ...chat, logit_bias: { 99999: 1 } }, 400, 'invalid_value', 'logit_bias'],
  [CHAT, { ...chat, n: 0 }, 400, 'invalid_value', 'n'],
  [CHAT, { ...chat, n: 1.5 }, 400, 'invalid_value', 'n'],
  [CHAT, { ...chat, seed: 'abc' }, 400, 'invalid_value', 'seed'],
  [CHAT, { ...chat, max_tokens: 0 }, 400, 'invalid_value', 'max_tokens'],
  [CHAT, { ...chat, max_tokens: -1 }, 400, 'invalid_value', 'max_tokens'],
  [CHAT, { ...chat, max_tokens: 5, min_tokens: 6 }, 400, 'invalid_value', 'min_tokens'],
  [CHAT, { ...chat, stop: '' }, 400, 'invalid_value', 'stop'],
  [CHAT, { ...chat, stop: ['a', ''] }, 400, 'invalid_value', 'stop[1]'],
  [CHAT, { ...chat, stop: 5 }, 400, 'invalid_value', 'stop'],
  [CHAT, { ...chat, stop_token_ids: [99999] }, 400, 'invalid_value', 'stop_token_ids[0]'],
  [CHAT, { ...chat, allowed_token_ids: [] }, 400, 'invalid_value', 'allowed_token_ids'],
  [CHAT, { ...chat, allowed_token_ids: [-1] }, 400, 'invalid_value', 'allowed_token_ids[0]'],
  [CHAT, { ...chat, bad_words: [''] }, 400, 'invalid_value', 'bad_words[0]'],
  [CHAT, { ...chat, top_logprobs: 3 }, 400, 'invalid_value', 'top_logprobs'],
  [CHAT, { ...chat, logprobs: true, top_logprobs: 21 }, 400, 'invalid_value', 'top_logprobs'],
  [CHAT, { ...chat, stream: 'yes' }, 400, 'invalid_value', 'stream'],
  [CHAT, { ...chat, stream_options: { include_usage: true } }, 400, 'invalid_value', 'stream_options'],
  [CHAT, { ...chat, stream: true, prompt_logprobs: 1 }, 400, 'invalid_value', 'prompt_logprobs'],
  [CHAT, { ...chat, truncate_prompt_tokens: 0 }, 400, 'invalid_value', 'truncate_prompt_tokens'],
  [CHAT, { ...chat, cache_salt: '' }, 400, 'invalid_value', 'cache_salt'],
  [
    CHAT,
    { ...chat, continue_final_message: true, add_generation_prompt: true },
    400,
    'invalid_value',
    'continue_final_message',
  ],
  [
    CHAT,
    { ...chat, response_format: { type: 'json_schema', json_schema: { schema: { not: {} } } } },
    400,
    'unsupported_value',
    'response_format.json_schema.schema',
  ],
  [
    CHAT,
    { ...chat, response_format: { type: 'json_schema' } },
    400,
    'invalid_value',
    'response_format.json_schema.schema',
  ],
  [CHAT, { ...chat, response_format: { type: 'yaml' } }, 400, 'invalid_value', 'response_format.type'],
  [
    CHAT,
    { ...chat, structured_outputs: { regex: 'a(?=b)' } },
    400,
    'unsupported_value',
    'structured_outputs.regex',
  ],
  [CHAT, { ...chat, structured_outputs: { regex: 'a(' } }, 400, 'invalid_value', 'structured_outputs.regex'],
  [
    CHAT,
    { ...chat, structured_outputs: { regex: 'a', choice: ['b'] } },
    400,
    'invalid_value',
    'structured_outputs',
  ],
  [
    CHAT,
    { ...chat, structured_outputs: { grammar: 'root ::= root' } },
    400,
    'invalid_value',
    'structured_outputs.grammar',
  ],
  [
    CHAT,
    { ...chat, response_format: { type: 'json_object' }, ignore_eos: true },
    400,
    'invalid_value',
    'ignore_eos',
  ],
  [
    CHAT,
    { ...chat, tools: [{ type: 'function', function: { name: 'a b' } }] },
    400,
    'invalid_value',
    'tools[0].function.name',
  ],
  [CHAT, { ...chat, tools: [{ type: 'retrieval' }] }, 400, 'unsupported_value', 'tools[0].type'],
  [CHAT, { ...chat, tool_choice: 'required' }, 400, 'invalid_value', 'tool_choice'],
  [CHAT, { ...chat, model: 'gpt-4' }, 404, 'model_not_found', 'model'],
  [CHAT, { ...chat, model: 5 }, 400, 'invalid_value', 'model'],
  [CHAT, { messages: user('refuse') }, 400, 'template_error', 'messages'],
  [CHAT, { messages: user('x'.repeat(600)) }, 400, 'context_length_exceeded', 'messages'],
  [CHAT, { messages: user('x'.repeat(100_000)) }, 400, 'context_length_exceeded', 'messages'],
  [CHAT, { ...chat, max_tokens: 600 }, 400, 'context_length_exceeded', 'messages'],
  [COMPLETE, {}, 400, 'invalid_value', 'prompt'],
  [COMPLETE, { prompt: [] }, 400, 'invalid_value', 'prompt'],
  [COMPLETE, { prompt: [[]] }, 400, 'invalid_value', 'prompt[0]'],
  [COMPLETE, { prompt: [1, 'a'] }, 400, 'invalid_value', 'prompt[1]'],
  [COMPLETE, { prompt: [1, 99999] }, 400, 'invalid_value', 'prompt[1]'],
  [COMPLETE, { prompt: [[1], [99999]] }, 400, 'invalid_value', 'prompt[1][0]'],
  [COMPLETE, { prompt: [-1] }, 400, 'invalid_value', 'prompt[0]'],
  [COMPLETE, { ...text, logprobs: 21 }, 400, 'invalid_value', 'logprobs'],
  [COMPLETE, { ...text, best_of: 1, n: 2 }, 400, 'invalid_value', 'best_of'],
  [COMPLETE, { ...text, best_of: 2, stream: true }, 400, 'invalid_value', 'best_of'],
  [COMPLETE, { ...text, suffix: 'end' }, 400, 'unsupported_value', 'suffix'],
  [COMPLETE, { prompt: 'x'.repeat(513), max_tokens: 1 }, 400, 'context_length_exceeded', 'prompt'],
  ['/tokenize', {}, 400, 'invalid_value', 'prompt'],
  ['/tokenize', { prompt: 5 }, 400, 'invalid_value', 'prompt'],
  ['/detokenize', { tokens: [99999] }, 400, 'invalid_value', 'tokens[0]'],
  ['/detokenize', { tokens: 'a' }, 400, 'invalid_value', 'tokens'],
  ['/apply-template', { messages: user('refuse') }, 400, 'template_error', 'messages'],
];

describe('refusals', () => {
  it('name the parameter, in the shape of the API', async () => {
    fixture = await serve(says('ok'));
    for (const [url, body, status, code, param] of refused) {
      const answer = await fixture.post(url, body);
      const shown = `${url} ${JSON.stringify(body).slice(0, 120)} -> ${answer.text.slice(0, 200)}`;
      expect([answer.status, answer.json.error?.code, answer.json.error?.param], shown).toEqual([
        status,
        code,
        param,
      ]);
      expectShape(answer.json);
    }
    // Nothing of all that reached the engine.
    expect(fixture.runner.steps).toBe(0);
  });

  it("show the template's own words", async () => {
    fixture = await serve(says('ok'));
    const { json } = await fixture.post(CHAT, { messages: user('refuse') });
    expect(json.error.message).toContain('No such talk.');
  });

  it('cover bodies that are no JSON, no UTF-8, empty, too large, of another type', async () => {
    fixture = await serve(says('ok'), { server: { bodyLimit: 2000 } });
    const cases: [string | Buffer, Record<string, string>, number, string][] = [
      ['{"messages": [', {}, 400, 'invalid_json'],
      ['', {}, 400, 'invalid_json'],
      [Buffer.from('{"a": "\xff"}', 'latin1'), {}, 400, 'invalid_json'],
      ['[]', {}, 400, 'invalid_value'],
      ['null', {}, 400, 'invalid_value'],
      ['"x"', {}, 400, 'invalid_value'],
      [`{"a": "${'x'.repeat(3000)}"}`, {}, 413, 'request_too_large'],
      ['a=b', { 'content-type': 'application/x-www-form-urlencoded' }, 415, 'unsupported_media_type'],
    ];
    for (const [body, headers, status, code] of cases) {
      const answer = await fixture.post(CHAT, body, headers);
      expect([answer.status, answer.json?.error?.code], String(body).slice(0, 40)).toEqual([status, code]);
      expectShape(answer.json);
    }
  });

  it('cover unknown routes and wrong methods', async () => {
    fixture = await serve(says('ok'));
    const missing = await fixture.post('/v1/nothing', {});
    expect([missing.status, missing.json.error.code]).toEqual([404, 'not_found']);
    expectShape(missing.json);
    const wrong = await fixture.app.inject({ method: 'GET', url: CHAT });
    expect([wrong.statusCode, wrong.headers.allow]).toEqual([405, 'POST']);
    expectShape(wrong.json());
    const malformed = await fixture.app.inject({ method: 'GET', url: '/v1/models/%zz' });
    expect(malformed.statusCode).toBe(400);
    expectShape(malformed.json());
    const model = await fixture.app.inject({ method: 'GET', url: '/v1/models/nope' });
    expect([model.statusCode, model.json().error.code]).toEqual([404, 'model_not_found']);
  });

  it('of a model without a template say where to go', async () => {
    fixture = await serve(says('ok'), { template: null });
    const { status, json } = await fixture.post(CHAT, chat);
    expect([status, json.error.code]).toEqual([400, 'template_error']);
    expect(json.error.message).toContain('/v1/completions');
  });
});

describe('keys', () => {
  it('open the API and leave probes, metrics and documentation open', async () => {
    fixture = await serve(says('ok'), { server: { apiKeys: ['one', 'two'] } });
    for (const headers of [{}, { authorization: 'Bearer wrong' }, { authorization: 'one' }] as Record<
      string,
      string
    >[]) {
      for (const url of [CHAT, COMPLETE, '/tokenize', '/detokenize', '/apply-template']) {
        const { status, json } = await fixture.post(url, chat, headers);
        expect([url, status, json.error.code]).toEqual([url, 401, 'invalid_api_key']);
        expectShape(json);
      }
      expect((await fixture.app.inject({ url: '/v1/models', headers })).statusCode).toBe(401);
    }
    expect((await fixture.post(CHAT, chat, { authorization: 'Bearer two' })).status).toBe(200);
    for (const url of [
      '/health',
      '/ready',
      '/ping',
      '/version',
      '/load',
      '/is_sleeping',
      '/metrics',
      '/',
      '/docs',
      '/openapi.json',
    ])
      expect([url, (await fixture.app.inject({ url })).statusCode]).toEqual([url, 200]);
  });

  it('guard everything under protectAll', async () => {
    fixture = await serve(says('ok'), { server: { apiKeys: ['one'], protectAll: true } });
    for (const url of ['/health', '/metrics', '/', '/nothing'])
      expect((await fixture.app.inject({ url })).statusCode).toBe(401);
    expect(
      (await fixture.app.inject({ url: '/health', headers: { authorization: 'Bearer one' } })).statusCode,
    ).toBe(200);
  });
});

describe('limits', () => {
  it('refuse with 503 and Retry-After when the queue is full, before the prompt is read', async () => {
    fixture = await serve(says('ok'), { engine: { maxNumSeqs: 1, queueLimit: 1 } });
    let release = () => {};
    fixture.runner.hold = new Promise((resolve) => {
      release = resolve;
    });
    const first = fixture.post(CHAT, chat);
    await until('a step', () => fixture.runner.steps > 0);
    const second = fixture.post(CHAT, chat);
    await until('one waits', () => fixture.engine.stats().waiting === 1);
    // Its prompt is too long, but nobody looks.
    const third = await fixture.post(CHAT, { messages: user('x'.repeat(600)) });
    expect([third.status, third.json.error.code, third.headers['retry-after']]).toEqual([
      503,
      'queue_full',
      '1',
    ]);
    release();
    expect((await first).status).toBe(200);
    expect((await second).status).toBe(200);
  });

  it('refuse a caller beyond its rate with 429', async () => {
    fixture = await serve(says('ok'), { server: { rateLimit: 2 } });
    expect((await fixture.post(CHAT, chat)).status).toBe(200);
    expect((await fixture.post(CHAT, chat)).status).toBe(200);
    const { status, json, headers } = await fixture.post(CHAT, chat);
    expect([status, json.error.code]).toEqual([429, 'rate_limit_exceeded']);
    expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    expect((await fixture.post(CHAT, chat, { authorization: 'Bearer another' })).status).toBe(200);
    expect((await fixture.app.inject({ url: '/health' })).statusCode).toBe(200);
  });
});

describe('faults', () => {
  it('of one request are its own: not finite logits are 500, others go on', async () => {
    fixture = await serve((prompt, generated) => {
      const poisoned = prompt.includes('!'.charCodeAt(0) + 3);
      return poisoned && generated === 2 ? 'nan' : generated < 4 ? 'a'.charCodeAt(0) + 3 : EOS;
    });
    const [bad, good, stream] = await Promise.all([
      fixture.post(CHAT, { messages: user('!') }),
      fixture.post(CHAT, { messages: user('b') }),
      fixture.post(CHAT, { messages: user('!'), stream: true }),
    ]);
    expect([bad.status, bad.json.error.type]).toEqual([500, 'server_error']);
    expectShape(bad.json);
    expect(good.json.choices[0].message.content).toBe('aaaa');
    // Mid-stream: the error as an event, then the end, without [DONE].
    const { chunks, done } = events(stream.text);
    expect(done).toBe(false);
    expect(
      chunks
        .slice(0, -1)
        .map((c) => c.choices[0].delta.content ?? '')
        .join(''),
    ).toBe('aa');
    expectShape(chunks.at(-1));
  });

  it('of a step fail its requests without telling why, and the server goes on', async () => {
    fixture = await serve(says('ok'));
    const { step } = fixture.runner;
    fixture.runner.step = async () => {
      throw new Error('/secret/path exploded');
    };
    const { status, json, text } = await fixture.post(CHAT, chat);
    expect(status).toBe(500);
    expect(text).not.toContain('secret');
    expectShape(json);
    // Before the first token a stream has its own status too.
    expect((await fixture.post(CHAT, { ...chat, stream: true })).status).toBe(500);
    fixture.runner.step = step;
    expect((await fixture.post(CHAT, chat)).status).toBe(200);
  });

  it('that last make /health fail', async () => {
    fixture = await serve(says('ok'));
    fixture.runner.step = async () => {
      throw new Error('gone');
    };
    for (let i = 0; i < 3; i++) await fixture.post(CHAT, chat);
    const { statusCode, body } = await fixture.app.inject({ url: '/health' });
    expect(statusCode).toBe(503);
    expectShape(JSON.parse(body));
    expect((await fixture.app.inject({ url: '/ready' })).statusCode).toBe(503);
  });
});
