import { afterEach, describe, expect, it } from 'vitest';
import { babbles, events, type Fixture, type Json, says, serve, user } from './fixture.js';

const CHAT = '/v1/chat/completions';
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

const schema = {
  type: 'object',
  properties: { city: { enum: ['Paris', 'Rome'] }, days: { type: 'integer', minimum: 1, maximum: 14 } },
  required: ['city', 'days'],
  additionalProperties: false,
};
const json_schema = { name: 'trip', strict: true, schema };
const tool = (name: string, extra: object = {}) => ({
  type: 'function',
  function: { name, description: 'x', parameters: schema, ...extra },
});
const calls = (chunks: Json[]) => chunks.flatMap((c) => c.choices[0]?.delta.tool_calls ?? []);
const joined = (chunks: Json[], index: number): string =>
  calls(chunks)
    .filter((call) => call.index === index)
    .map((call) => call.function.arguments)
    .join('');

describe('constrained output', () => {
  it('satisfies a schema whatever the model wants to say, streamed and whole alike', async () => {
    fixture = await serve(babbles);
    const body = {
      messages: user('trip'),
      response_format: { type: 'json_schema', json_schema },
      temperature: 0,
    };
    const whole = await fixture.post(CHAT, body);
    expect(whole.status).toBe(200);
    const { content } = whole.json.choices[0].message;
    expect(schema.properties.city.enum).toContain(JSON.parse(content).city);
    expect(whole.json.choices[0].finish_reason).toBe('stop');
    const { chunks, done } = events((await fixture.post(CHAT, { ...body, stream: true })).text);
    expect(done).toBe(true);
    expect(chunks.map((c) => c.choices[0]?.delta.content ?? '').join('')).toBe(content);
  });

  it('appends what must follow without a step each, and the same text with log-probabilities', async () => {
    fixture = await serve(babbles);
    const body = {
      messages: user('trip'),
      response_format: { type: 'json_schema', json_schema },
      temperature: 0,
    };
    const { json } = await fixture.post(CHAT, body);
    const steps = fixture.runner.steps;
    expect(steps).toBeLessThan(json.usage.completion_tokens);
    const logged = await fixture.post(CHAT, { ...body, logprobs: true });
    const { content } = logged.json.choices[0].logprobs;
    expect(content).toHaveLength(logged.json.usage.completion_tokens);
    expect(fixture.runner.steps - steps).toBeGreaterThanOrEqual(content.length);
  });

  it('says so where the length cuts it off', async () => {
    fixture = await serve(babbles);
    const { json } = await fixture.post(CHAT, {
      messages: user('a'),
      structured_outputs: { regex: '[a-z]{40}' },
      max_tokens: 7,
    });
    expect(json.choices[0]).toMatchObject({ finish_reason: 'length' });
    expect(json.choices[0].message.content).toMatch(/^[a-z]{7}$/);
  });

  it.each([
    [{ choice: ['yes', 'no'] }, /^(yes|no)$/],
    [{ regex: '\\d{3}-[A-F]+z' }, /^\d{3}-[A-F]+z$/],
    [{ grammar: 'root ::= "(" root ")" | [xy]' }, /^\(*[xy]\)*$/],
    [{ grammar: 'start: sum\nsum: sum "+" NUM | NUM\n%import common.INT -> NUM' }, /^\d+(\+\d+)*$/],
    [{ json: { type: 'array', items: { type: 'boolean' }, minItems: 1, maxItems: 3 } }, /^\[\s*(true|false)/],
  ])('takes %j', async (structured_outputs, pattern) => {
    fixture = await serve(babbles);
    for (const url of [CHAT, '/v1/completions']) {
      const body = url === CHAT ? { messages: user('a') } : { prompt: 'a' };
      const { status, json } = await fixture.post(url, {
        ...body,
        structured_outputs,
        max_tokens: 200,
        seed: 3,
      });
      expect(status).toBe(200);
      const [choice] = json.choices;
      const text = choice.message?.content ?? choice.text;
      if (choice.finish_reason === 'stop') expect(text).toMatch(pattern);
    }
  });

  it('keeps n choices, seeds and neighbours apart', async () => {
    fixture = await serve(babbles);
    const free = { messages: user('free'), max_tokens: 30, temperature: 0 };
    const alone = await fixture.post(CHAT, free);
    const many = { messages: user('n'), n: 4, seed: 5, structured_outputs: { regex: '[a-z ]{12}' } };
    const [constrained, beside] = await Promise.all([fixture.post(CHAT, many), fixture.post(CHAT, free)]);
    expect(beside.json.choices[0].message.content).toBe(alone.json.choices[0].message.content);
    const texts = constrained.json.choices.map((c: Json) => c.message.content);
    for (const text of texts) expect(text).toMatch(/^[a-z ]{12}$/);
    expect(new Set(texts).size).toBeGreaterThan(1);
    const again = await fixture.post(CHAT, many);
    expect(again.json.choices.map((c: Json) => c.message.content)).toEqual(texts);
  });

  it('refuses hostile constraints in time', async () => {
    fixture = await serve(babbles);
    const started = performance.now();
    let deep: object = { type: 'string' };
    for (let i = 0; i < 400; i++) deep = { type: 'array', items: deep };
    const hostile = [
      { regex: '((a{1000}){1000}){1000}' },
      { regex: '('.repeat(5000) },
      { json: deep },
      { json: { type: 'string', maxLength: 10_000_000 } },
      { json: { $ref: '#' } },
      { json: { allOf: [{ $ref: '#' }] } },
      { json: { type: 'string', pattern: '(a|b)*a(a|b){18}$', maxLength: 400 } },
      { grammar: 'root ::= a\na ::= b\nb ::= a | "x"' },
      { choice: Array.from({ length: 30_000 }, (_, i) => `c${i}`) },
    ];
    for (const structured_outputs of hostile) {
      const { status, json } = await fixture.post(CHAT, {
        messages: user('a'),
        structured_outputs,
        max_tokens: 5,
      });
      expect(status, JSON.stringify(structured_outputs).slice(0, 80)).toBe(400);
      expect(json.error.param).toMatch(/^structured_outputs/);
    }
    expect(performance.now() - started).toBeLessThan(20_000);
  }, 40_000);
});

describe('tools', () => {
  const call =
    '<tool_call>[{"name": "trip", "arguments": {"city": "Rome", "days": 3}}, {"name": "b", "arguments": {}}]</tool_call>';

  it('reads calls out of an answer, streamed in fragments under stable indexes', async () => {
    fixture = await serve(says(`Sure.\n${call}`), { runner: { maxModelLen: 4096 } });
    const body = { messages: user('go'), tools: [tool('trip'), tool('b')] };
    const { json } = await fixture.post(CHAT, body);
    const { message, finish_reason } = json.choices[0];
    expect(finish_reason).toBe('tool_calls');
    expect(message.content).toBe('Sure.');
    expect(message.tool_calls.map((c: Json) => [c.type, c.function])).toEqual([
      ['function', { name: 'trip', arguments: '{"city": "Rome", "days": 3}' }],
      ['function', { name: 'b', arguments: '{}' }],
    ]);
    const { chunks } = events((await fixture.post(CHAT, { ...body, stream: true })).text);
    const heads = calls(chunks).filter((c) => c.id);
    expect(heads.map((c) => [c.index, c.function])).toEqual([
      [0, { name: 'trip', arguments: '' }],
      [1, { name: 'b', arguments: '' }],
    ]);
    expect([joined(chunks, 0), joined(chunks, 1)]).toEqual(['{"city": "Rome", "days": 3}', '{}']);
    expect(chunks.map((c) => c.choices[0].delta.content ?? '').join('')).toBe('Sure.');
    expect(chunks.at(-1).choices[0].finish_reason).toBe('tool_calls');
  });

  it('tells the model of its tools, and nothing where tool_choice is none', async () => {
    fixture = await serve(says('ok'), { runner: { maxModelLen: 4096 } });
    const told = await fixture.post('/apply-template', { messages: user('go'), tools: [tool('trip')] });
    const tokens = (choice: string) =>
      fixture.post(CHAT, { messages: user('go'), tools: [tool('trip')], tool_choice: choice, max_tokens: 1 });
    const [auto, none, bare] = [
      await tokens('auto'),
      await tokens('none'),
      await fixture.post(CHAT, { messages: user('go'), max_tokens: 1 }),
    ];
    expect(told.json.prompt).toContain('"name":"trip"');
    expect(auto.json.usage.prompt_tokens).toBeGreaterThan(bare.json.usage.prompt_tokens + 500);
    expect(none.json.usage.prompt_tokens).toBe(bare.json.usage.prompt_tokens);
  });

  it.each(['required', { type: 'function', function: { name: 'trip' } }])(
    'guarantees the call that %j asks for',
    async (tool_choice) => {
      fixture = await serve(babbles, { runner: { maxModelLen: 4096 } });
      const { status, json } = await fixture.post(CHAT, {
        messages: user('go'),
        tools: [tool('trip')],
        tool_choice,
        parallel_tool_calls: false,
      });
      expect(status).toBe(200);
      const [first, ...others] = json.choices[0].message.tool_calls;
      expect(others).toEqual([]);
      expect(first.function.name).toBe('trip');
      const { city, days } = JSON.parse(first.function.arguments);
      expect(schema.properties.city.enum).toContain(city);
      expect(days).toBeGreaterThanOrEqual(1);
      expect(json.choices[0].finish_reason).toBe('tool_calls');
    },
  );

  it('refuses a strict schema that cannot be honoured, by name', async () => {
    fixture = await serve(says('ok'));
    const parameters = { type: 'object', properties: { a: { not: {} } } };
    const { status, json } = await fixture.post(CHAT, {
      messages: user('go'),
      tools: [tool('trip', { parameters, strict: true })],
    });
    expect(status).toBe(400);
    expect(json.error).toMatchObject({ param: 'tools[0].function.parameters', code: 'unsupported_value' });
    expect(json.error.message).toContain("'not'");
  });
});
