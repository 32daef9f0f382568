import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { events, type Fixture, says, serve, until, user } from './fixture.js';

/** The service as `serve --lora poet=… --lora org/sql=…` makes it. */
let fixture: Fixture;
beforeAll(async () => {
  fixture = await serve(says('ok'), {
    runner: { adapters: ['poet', 'org/sql'] },
    service: {
      adapters: new Map([
        ['poet', { root: 'poet-adapter', rank: 8 }],
        ['org/sql', { root: 'sql-r16', rank: 16 }],
      ]),
    },
  });
});
afterAll(() => fixture.close());
beforeEach(() => {
  fixture.runner.opened.length = 0;
});

const MODELS = [
  ['poet', 'poet'],
  ['org/sql', 'org/sql'],
  ['test-model', null],
  ['org/alias', null],
] as const;

describe('an adapter is chosen by model name', () => {
  const ROUTES: [string, Record<string, unknown>][] = [
    ['/v1/chat/completions', { messages: user('hi'), max_tokens: 4 }],
    ['/v1/completions', { prompt: 'hi', max_tokens: 4 }],
    ['/v1/responses', { input: 'hi', max_output_tokens: 16 }],
    ['/v1/messages', { messages: user('hi'), max_tokens: 4 }],
    ['/v1/embeddings', { input: 'hi' }],
  ];
  for (const [url, body] of ROUTES)
    test(url, async () => {
      for (const [model, adapter] of MODELS) {
        fixture.runner.opened.length = 0;
        const { status, json } = await fixture.post(url, { ...body, model });
        expect(status).toBe(200);
        expect(json.model).toBe(model);
        expect(fixture.runner.opened).toEqual([adapter]);
      }
      const { status, json } = await fixture.post(url, { ...body, model: 'poet2' });
      expect(status).toBe(404);
      const message =
        "The model 'poet2' does not exist. This server has: test-model, org/alias, poet, org/sql.";
      expect(json.error.message).toBe(message);
      if (url !== '/v1/messages')
        expect(json.error).toMatchObject({ code: 'model_not_found', param: 'model' });
    });

  test('left out, the base answers; every choice and every prompt of a request has its adapter', async () => {
    await fixture.post('/v1/chat/completions', { messages: user('hi'), max_tokens: 4 });
    await fixture.post('/v1/completions', { prompt: ['a', 'b'], n: 2, max_tokens: 4, model: 'poet' });
    expect(fixture.runner.opened).toEqual([null, 'poet', 'poet', 'poet', 'poet']);
  });

  test('streams name it', async () => {
    const body = { messages: user('hi'), max_tokens: 4, stream: true, model: 'org/sql' };
    const { chunks } = events((await fixture.post('/v1/chat/completions', body)).text);
    expect(new Set(chunks.map(({ model }) => model))).toEqual(new Set(['org/sql']));
    expect(fixture.runner.opened).toEqual(['org/sql']);
  });

  test('a stored response goes on under another adapter', async () => {
    const first = await fixture.post('/v1/responses', { input: 'hi', model: 'poet' });
    const body = { input: 'go on', previous_response_id: first.json.id, model: 'org/sql' };
    expect((await fixture.post('/v1/responses', body)).status).toBe(200);
    expect(fixture.runner.opened).toEqual(['poet', 'org/sql']);
  });

  test('tokenizer routes take its name', async () => {
    expect((await fixture.post('/tokenize', { prompt: 'hi', model: 'poet' })).status).toBe(200);
    expect(
      (await fixture.post('/v1/messages/count_tokens', { messages: user('hi'), model: 'poet' })).status,
    ).toBe(200);
    expect((await fixture.post('/tokenize', { prompt: 'hi', model: 'prose' })).status).toBe(404);
  });
});

test('/v1/models lists adapters behind the model, with parent and root', async () => {
  const list = (await fixture.app.inject('/v1/models')).json();
  expect(list.data.map(({ id, root, parent }: Record<string, string>) => [id, root, parent])).toEqual([
    ['test-model', 'test-model', null],
    ['org/alias', 'test-model', null],
    ['poet', 'poet-adapter', 'test-model'],
    ['org/sql', 'sql-r16', 'test-model'],
  ]);
  expect((await fixture.app.inject('/v1/models/org/sql')).json()).toEqual(list.data[3]);
  expect(list.data[3]).toMatchObject({ lora_rank: 16, max_model_len: 512 });
  expect(list.data[0]).not.toHaveProperty('lora_rank');
});

test('the metrics say which adapters run and which wait', async () => {
  const line = async () =>
    /^vllm:lora_requests_info\{(.*)\} (\S+)$/m.exec((await fixture.app.inject('/metrics')).body)?.slice(1, 3);
  expect(await line()).toEqual([
    'max_lora="2",running_lora_adapters="",waiting_lora_adapters=""',
    expect.stringMatching(/^1\d{9}/),
  ]);
  let release = () => {};
  fixture.runner.hold = new Promise((resolve) => {
    release = resolve;
  });
  const ask = (model: string) => fixture.post('/v1/completions', { prompt: model, max_tokens: 4, model });
  const running = Array.from({ length: 8 }, (_, i) => ask(i < 4 ? 'poet' : 'test-model'));
  await until('all run', () => fixture.engine.stats().running === 8);
  const waiting = ask('org/sql');
  await until('one waits', () => fixture.engine.stats().waiting === 1);
  expect((await line())?.[0]).toBe(
    'max_lora="2",running_lora_adapters="poet",waiting_lora_adapters="org/sql"',
  );
  release();
  fixture.runner.hold = null;
  await Promise.all([...running, waiting]);
  expect((await line())?.[0]).toBe('max_lora="2",running_lora_adapters="",waiting_lora_adapters=""');
});

test('a server without adapters has no such metric', async () => {
  const plain = await serve(says('ok'));
  expect((await plain.app.inject('/metrics')).body).not.toContain('lora');
  await plain.close();
});

test("cache events name the adapter that computed a block, and the caller's own salt", async () => {
  const named = await serve(says('ok'), {
    runner: { adapters: ['poet'] },
    engine: { cacheEventSeed: 'seed' },
    service: { adapters: new Map([['poet', { root: 'poet', rank: 8 }]]) },
  });
  const origins: unknown[] = [];
  named.engine.on('cache', (events) => {
    for (const event of events) if (event.type === 'stored') origins.push(event.origin);
  });
  const prompt = 'x'.repeat(40);
  const ask = (fields: object) => named.post('/v1/completions', { prompt, max_tokens: 2, ...fields });
  await ask({ model: 'poet', cache_salt: 's' });
  await ask({ model: 'poet' });
  await ask({});
  expect(origins).toEqual([
    { adapter: 'poet', salt: 's' },
    { adapter: 'poet', salt: '' },
    { adapter: undefined, salt: '' },
  ]);
  await named.close();
});
