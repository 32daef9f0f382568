import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { babbles, type Fixture, type Json, serve, user } from './fixture.js';
import { Random } from './random.js';

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
    fixture = await serve(babbles, { runner: { maxModelLen: 128 } });
  });
  afterAll(() => fixture.close());

  it('are answered or refused in the shape of the API, and leave nothing behind', {
    timeout: 120_000,
  }, async () => {
    const seed = Number(process.env.FILIGREE_FUZZ_SEED ?? 20261124);
    const rounds = Number(process.env.FILIGREE_FUZZ_ROUNDS ?? 3000);
    const random = new Random(seed);
    const seen = new Map<number, number>();
    for (let round = 0; round < rounds; round++) {
      const [url, whole] = random.pick(BODIES);
      let body = whole;
      for (let i = 1 + random.below(3); i > 0; i--) body = mutate(body, random);
      const text = JSON.stringify(body) ?? 'null';
      const payload = random.chance(0.25) ? damage(text, random) : text;
      const { status, json, text: answer } = await fixture.post(url, payload);
      const shown = `seed ${seed}, round ${round}: ${url} ${String(payload).slice(0, 300)} -> ${status} ${answer.slice(0, 300)}`;
      seen.set(status, (seen.get(status) ?? 0) + 1);
      if (status === 200) continue;
      expect([400, 404, 413], shown).toContain(status);
      const shape = url.startsWith('/v1/messages')
        ? ['message', 'type']
        : ['code', 'message', 'param', 'type'];
      expect(Object.keys(json?.error ?? {}).sort(), shown).toEqual(shape);
    }
    // Both sides were reached.
    expect(seen.get(200)).toBeGreaterThan(rounds / 20);
    expect(seen.get(400)).toBeGreaterThan(rounds / 4);
    const { running, waiting, usedBlocks } = fixture.engine.stats();
    expect([running, waiting, usedBlocks, fixture.service.lifecycle.active]).toEqual([0, 0, 0, 0]);
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
