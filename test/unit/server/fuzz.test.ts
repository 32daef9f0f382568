import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { babbles, type Fixture, type Json, serve, until, user } from './fixture.js';
import { Random } from './random.js';

const parameters = {
  type: 'object',
  properties: {
    a: { type: 'string', pattern: '^x+$' },
    b: { anyOf: [{ type: 'integer' }, { type: 'null' }] },
  },
  required: ['a'],
};
const func = { name: 'f', description: 'd', parameters, strict: true };

const BODIES: [string, Json][] = [
  [
    '/v1/chat/completions',
    {
      model: 'test-model',
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: [{ type: 'text', text: 'Hi' }] },
      ],
      temperature: 0.5,
      top_p: 0.9,
      top_k: 5,
      min_p: 0.1,
      n: 2,
      max_tokens: 4,
      stop: ['x', 'yz'],
      seed: 3,
      logit_bias: { 5: 1 },
      logprobs: true,
      top_logprobs: 2,
      stop_token_ids: [7],
      bad_words: ['ab'],
      repetition_penalty: 1.1,
      response_format: { type: 'text' },
      chat_template_kwargs: { a: 1 },
      stream_options: null,
      stream: false,
    },
  ],
  [
    '/v1/completions',
    { prompt: ['ab', 'c'], max_tokens: 3, echo: true, logprobs: 1, best_of: 2, n: 1, stop: 'q' },
  ],
  [
    '/v1/completions',
    { prompt: [[5, 6], [7]], max_tokens: 2, prompt_logprobs: 1, ignore_eos: true, min_tokens: 1 },
  ],
  [
    '/v1/chat/completions',
    {
      messages: [
        { role: 'user', content: 'Hi', name: 'n' },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{"a": "x"}' } }],
        },
        { role: 'tool', content: '1', tool_call_id: 'c' },
      ],
      tools: [{ type: 'function', function: func }],
      tool_choice: 'auto',
      parallel_tool_calls: false,
      max_completion_tokens: 4,
      cache_salt: 's',
      priority: 1,
    },
  ],
  [
    '/v1/chat/completions',
    {
      messages: user('a'),
      max_tokens: 5,
      response_format: { type: 'json_schema', json_schema: { name: 's', schema: parameters, strict: true } },
    },
  ],
  [
    '/v1/completions',
    {
      prompt: 'a',
      max_tokens: 4,
      structured_outputs: { regex: '[ab]{2,4}|c', grammar: null },
      min_tokens: 1,
    },
  ],
  ['/v1/completions', { prompt: 'a', suffix: 'b', max_tokens: 2, allowed_token_ids: [5, 6] }],
  ['/tokenize', { prompt: 'abc', add_special_tokens: true, return_token_strs: true }],
  ['/tokenize', { messages: user('a'), add_generation_prompt: false }],
  ['/detokenize', { tokens: [5, 6, 7] }],
  [
    '/v1/responses',
    {
      input: [
        { role: 'user', content: [{ type: 'input_text', text: 'Hi' }] },
        { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
        { type: 'function_call_output', call_id: 'c', output: '1' },
      ],
      instructions: 'Be brief.',
      max_output_tokens: 4,
      previous_response_id: null,
      include: ['message.output_text.logprobs'],
      top_logprobs: 1,
      text: { format: { type: 'text' } },
      truncation: 'auto',
      store: true,
      metadata: { a: 'b' },
    },
  ],
  [
    '/v1/messages',
    {
      max_tokens: 4,
      system: [{ type: 'text', text: 'S' }],
      messages: [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: [{ type: 'tool_use', id: 't', name: 'f', input: {} }] },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', content: 'x' }] },
      ],
      stop_sequences: ['q'],
      temperature: 0.5,
    },
  ],
  [
    '/v1/responses',
    {
      input: 'a',
      tools: [{ type: 'function', ...func }],
      tool_choice: { type: 'function', name: 'f' },
      max_output_tokens: 3,
      background: false,
    },
  ],
  [
    '/v1/messages',
    {
      max_tokens: 3,
      messages: [...user('a'), { role: 'assistant', content: 'b' }],
      tools: [{ name: 'f', description: 'd', input_schema: parameters }],
      tool_choice: { type: 'tool', name: 'f', disable_parallel_tool_use: true },
      structured_outputs: null,
    },
  ],
  ['/v1/responses/resp_none/cancel', { a: 1 }],
  ['/ping', { a: 1 }],
  ['/v1/messages/count_tokens', { messages: user('a'), system: 'S' }],
  ['/v1/embeddings', { input: ['ab', 'c'], dimensions: 2, encoding_format: 'float', pooling: 'mean' }],
  ['/v1/embeddings', { input: [[5, 6], [7]], normalize: false, truncate_prompt_tokens: 3 }],
  ['/apply-template', { messages: user('a'), continue_final_message: false }],
];

const ODD: Json[] = [
  null,
  true,
  false,
  0,
  -1,
  1.5,
  1e308,
  -1e308,
  2 ** 53,
  2 ** 31,
  '',
  'x',
  '\ud800',
  '<|im_start|>',
  '\u0000',
  'y'.repeat(5000),
  [],
  {},
  [[]],
  [null],
  [1, 'a'],
  { a: { b: [] } },
  [-1],
  [99999],
];

/** One change somewhere in the value. */
function mutate(value: Json, random: Random): Json {
  if (value !== null && typeof value === 'object' && random.chance(0.85)) {
    const copy = Array.isArray(value) ? [...value] : { ...value };
    const keys = Object.keys(copy);
    const roll = random.next();
    if (keys.length === 0 || roll < 0.1) {
      if (Array.isArray(copy)) copy.push(random.pick(ODD));
      else
        copy[random.pick(['extra', 'n', 'stream', 'tools', '__proto__x', 'echo', 'suffix', 'user'])] =
          random.pick(ODD);
      return copy;
    }
    const key = random.pick(keys);
    if (roll < 0.2) {
      if (Array.isArray(copy)) copy.splice(Number(key), 1);
      else delete copy[key];
    } else copy[key] = mutate(copy[key], random);
    return copy;
  }
  return random.pick(ODD);
}

/** Text that is hardly JSON any more. */
function damage(text: string, random: Random): Buffer {
  const bytes = Buffer.from(text);
  const at = random.below(bytes.length);
  switch (random.below(4)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      bytes[at] = random.below(256);
      return bytes;
    case 2:
      return Buffer.concat([
        bytes.subarray(0, at),
        Buffer.from('['.repeat(1 + random.below(20_000))),
        bytes.subarray(at),
      ]);
    default:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(random.below(bytes.length))]);
  }
}

describe('mutated bodies', () => {
  let fixture: Fixture;
  beforeAll(async () => {
    fixture = await serve(babbles, {
      runner: { maxModelLen: 1024 },
      controls: ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'],
    });
  });
  afterAll(() => fixture.close());

  const idle = () => {
    const { running, waiting, usedBlocks } = fixture.engine.stats();
    return running + waiting + usedBlocks + fixture.service.lifecycle.active === 0;
  };

  it('are made for every route that takes a body', async () => {
    const { paths } = (await fixture.app.inject({ url: '/openapi.json' })).json() as Json;
    const posts = Object.keys(paths).filter((path) => paths[path].post);
    const tried = new Set(BODIES.map(([url]) => url.replace('resp_none', '{id}')));
    expect(posts.filter((path) => !tried.has(path))).toEqual([]);
  });

  it('are answered or refused as messages of the WebSocket, each under its id', {
    timeout: 60_000,
  }, async () => {
    const seed = Number(process.env.FILIGREE_FUZZ_SEED ?? 20261124);
    const random = new Random(seed);
    const types: Record<string, string> = {
      '/v1/chat/completions': 'chat.completions',
      '/v1/completions': 'completions',
    };
    const wholes = BODIES.flatMap(([url, body]) => (types[url] ? [{ type: types[url], id: 'x', body }] : []));
    let answers = 0;
    let errors = 0;
    const shapes = new Set<string>();
    const open = new Set<string>();
    const socket = await fixture.app.injectWS('/v1/stream');
    socket.on('message', (data: Buffer) => {
      const message: Json = JSON.parse(data.toString());
      answers++;
      if (message.type === 'error') {
        errors++;
        shapes.add(Object.keys(message.error).sort().join());
      }
      // What cannot be read as a request is answered with an error alone.
      if (message.type === 'done' || message.type === 'error') open.delete(message.id);
    });
    for (let round = 0; round < 1500; round++) {
      let message: Json = random.pick(wholes);
      for (let i = 1 + random.below(3); i > 0; i--) message = mutate(message, random);
      if (message?.id === 'x') message.id = `r${round}`;
      const text = JSON.stringify(message) ?? 'null';
      const damaged = random.chance(0.2);
      const binary = random.chance(0.02);
      // The others are answered with an error that has no id, or another one.
      if (message?.id === `r${round}` && !damaged && !binary) open.add(message.id);
      // Bytes that are no UTF-8 close a WebSocket by its own rules (1007).
      socket.send(damaged ? damage(text, random).toString() : text, { binary });
      if (round % 50 === 0) await until('it keeps up', () => open.size < 20, 10_000);
      expect(socket.readyState, `seed ${seed}, round ${round}: ${text.slice(0, 300)}`).toBe(socket.OPEN);
    }
    await until('all is answered', idle, 10_000);
    expect(answers).toBeGreaterThan(1500);
    expect(errors).toBeGreaterThan(300);
    expect([...shapes]).toEqual(['code,message,param,type']);
    socket.terminate();
    fixture.engine.check();
  });

  it('are answered or refused in the shape of the API, and leave nothing behind', {
    timeout: 300_000,
  }, async () => {
    const seed = Number(process.env.FILIGREE_FUZZ_SEED ?? 20261124);
    const rounds = Number(process.env.FILIGREE_FUZZ_ROUNDS ?? 10_000);
    const random = new Random(seed);
    const seen = new Map<number, number>();
    const routes = new Map<string, number>();
    for (let round = 0; round < rounds; round++) {
      const [url, whole] = random.pick(BODIES);
      let body = whole;
      for (let i = 1 + random.below(3); i > 0; i--) body = mutate(body, random);
      const text = JSON.stringify(body) ?? 'null';
      const payload = random.chance(0.25) ? damage(text, random) : text;
      const { status, json, text: answer } = await fixture.post(url, payload);
      const shown = `seed ${seed}, round ${round}: ${url} ${String(payload).slice(0, 300)} -> ${status} ${answer.slice(0, 300)}`;
      seen.set(status, (seen.get(status) ?? 0) + 1);
      routes.set(url, (routes.get(url) ?? 0) + 1);
      if (status === 200) continue;
      expect([400, 404, 413], shown).toContain(status);
      const shape = url.startsWith('/v1/messages')
        ? ['message', 'type']
        : ['code', 'message', 'param', 'type'];
      expect(Object.keys(json?.error ?? {}).sort(), shown).toEqual(shape);
    }
    // Every route and both sides were reached.
    expect(Math.min(...routes.values())).toBeGreaterThan(rounds / 50);
    expect(seen.get(200)).toBeGreaterThan(rounds / 20);
    expect(seen.get(400)).toBeGreaterThan(rounds / 4);
    await until('nothing is left', idle);
    fixture.engine.check();
  });
});

describe('a stream', () => {
  it('is the whole answer in pieces, whatever is asked', { timeout: 120_000 }, async () => {
    const words = 'naïve 🌍 wörld\n\ttab "quote" <|im_end|>x 漢字 👩‍👩‍👧 end. ';
    const fixture = await serve((prompt, generated, seed) => {
      const bytes = Buffer.from(words.repeat(4));
      const at = (generated + prompt.length + Number(seed % 7n)) % bytes.length;
      return generated > 60 + Number(seed % 5n) ? 2 : (bytes[at] as number) + 3;
    });
    const random = new Random(7);
    for (let round = 0; round < 150; round++) {
      const stops = ['🌍', 'end', '\n', 'rld', 'quote" <', '字', 'zzz', ' ', 'x 漢'];
      const common = {
        seed: random.below(1000),
        max_tokens: 1 + random.below(80),
        n: 1 + random.below(3),
        ...(random.chance(0.7) && {
          stop: Array.from({ length: 1 + random.below(3) }, () => random.pick(stops)),
        }),
        ...(random.chance(0.3) && { include_stop_str_in_output: true }),
        ...(random.chance(0.3) && { skip_special_tokens: false }),
        ...(random.chance(0.3) && { min_tokens: random.below(3) % 80 }),
        ...(random.chance(0.3) && { return_token_ids: true }),
      };
      if ((common.min_tokens ?? 0) > common.max_tokens) common.min_tokens = 1;
      const chat = random.chance(0.5);
      const url = chat ? '/v1/chat/completions' : '/v1/completions';
      const body = chat
        ? {
            ...common,
            messages: user(`m${random.below(9)}`),
            ...(random.chance(0.5) && { logprobs: true, top_logprobs: 1 }),
          }
        : {
            ...common,
            prompt: `p${random.below(9)}`,
            echo: random.chance(0.5),
            ...(random.chance(0.5) && { logprobs: 1 }),
          };
      const whole = (await fixture.post(url, body)).json;
      const { text } = await fixture.post(url, { ...body, stream: true });
      const chunks = text
        .split('\n\n')
        .filter((part) => part.startsWith('data: {'))
        .map((part) => JSON.parse(part.slice(6)));
      for (const choice of whole.choices) {
        const own = chunks.map((c: Json) => c.choices[0]).filter((c: Json) => c.index === choice.index);
        const streamed = own.map((c: Json) => (chat ? (c.delta.content ?? '') : c.text)).join('');
        const shown = `round ${round}: ${JSON.stringify(body)}`;
        expect(streamed, shown).toBe(chat ? choice.message.content : choice.text);
        expect(own.at(-1).finish_reason, shown).toBe(choice.finish_reason);
        expect(own.at(-1).stop_reason, shown).toBe(choice.stop_reason);
        const key = chat ? 'content' : 'token_logprobs';
        expect(
          own.flatMap((c: Json) => c.logprobs?.[key] ?? []),
          shown,
        ).toEqual(choice.logprobs?.[key] ?? []);
        expect(
          own.flatMap((c: Json) => c.token_ids ?? []),
          shown,
        ).toEqual(choice.token_ids ?? []);
      }
    }
    await fixture.close();
  });
});
