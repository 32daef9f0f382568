import { afterEach, describe, expect, it } from 'vitest';
import { babbles, byteId, type Fixture, type Json, pooledState, serve, until } from './fixture.js';

const URL = '/v1/embeddings';
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

const ids = (text: string) => Int32Array.from(Buffer.from(text), (byte) => byteId(byte));
const unit = (vector: Float32Array) => {
  const length = Math.hypot(...vector);
  return [...vector].map((x) => x / length);
};
const near = (a: number[], b: number[]) => {
  expect(a).toHaveLength(b.length);
  a.forEach((x, i) => {
    expect(x).toBeCloseTo(b[i] as number, 5);
  });
};

describe('embeddings', () => {
  it('are the mean hidden state as a unit vector, in the order of the inputs', async () => {
    fixture = await serve(babbles);
    const input = Array.from({ length: 40 }, (_, i) => `text ${i}`.repeat(1 + (i % 7)));
    const { status, json } = await fixture.post(URL, { model: 'test-model', input });
    expect(status).toBe(200);
    expect(json).toMatchObject({ object: 'list', model: 'test-model' });
    const tokens = input.reduce((sum, text) => sum + text.length, 0);
    expect(json.usage).toEqual({ prompt_tokens: tokens, total_tokens: tokens });
    json.data.forEach((item: Json, i: number) => {
      expect([item.object, item.index]).toEqual(['embedding', i]);
      near(item.embedding, unit(pooledState(ids(input[i] as string), 'mean')));
    });
  });

  it('take token ids, the last token, fewer dimensions, no normalization, base64', async () => {
    fixture = await serve(babbles);
    const last = await fixture.post(URL, { input: [5, 6, 9], pooling: 'last', normalize: false });
    near(last.json.data[0].embedding, [9, 1, 9, 1]);
    const short = await fixture.post(URL, { input: [[5, 6], [7]], pooling: 'last', dimensions: 2 });
    near(short.json.data[1].embedding, unit(Float32Array.of(7, 1)));
    const coded = await fixture.post(URL, { input: 'ab', encoding_format: 'base64' });
    const bytes = Buffer.from(coded.json.data[0].embedding, 'base64');
    near(
      Array.from({ length: 4 }, (_, i) => bytes.readFloatLE(4 * i)),
      unit(pooledState(ids('ab'), 'mean')),
    );
  });

  it('do not stop short of a prompt that is in the prefix cache', async () => {
    fixture = await serve(babbles);
    const text = 'x'.repeat(200);
    for (let i = 0; i < 2; i++) {
      const { json } = await fixture.post(URL, { input: text });
      near(json.data[0].embedding, unit(pooledState(ids(text), 'mean')));
    }
  });

  it.each([
    [{ input: [] }, 'input'],
    [{ input: 'a', dimensions: 5 }, 'dimensions'],
    [{ input: 'a', dimensions: 0 }, 'dimensions'],
    [{ input: ['a', 'x'.repeat(600)] }, 'input[1]'],
    [{ input: [[1], [9999]] }, 'input[1][0]'],
    [{ input: '' }, 'input'],
    [{ input: 'a', encoding_format: 'hex' }, 'encoding_format'],
    [{}, 'input'],
  ])('refuse %j', async (body, param) => {
    fixture = await serve(babbles);
    fixture.service.model.tokenizer = Object.create(fixture.service.model.tokenizer, {
      bosId: { value: null },
    });
    const { status, json } = await fixture.post(URL, body);
    expect([status, json.error.param]).toEqual([400, param]);
  });

  it('leave nothing behind when the client leaves', async () => {
    fixture = await serve(babbles);
    let go = () => {};
    fixture.runner.hold = new Promise((resolve) => {
      go = resolve;
    });
    await fixture.app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = fixture.app.server.address() as { port: number };
    const abort = new AbortController();
    const asked = fetch(`http://127.0.0.1:${port}${URL}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ input: Array.from({ length: 500 }, (_, i) => `t${i}`) }),
      signal: abort.signal,
    }).catch(() => null);
    await until('it runs', () => fixture.engine.stats().running > 0);
    abort.abort();
    await asked;
    go();
    fixture.runner.hold = null;
    await until(
      'all is free',
      () => fixture.service.lifecycle.active === 0 && fixture.engine.stats().usedBlocks === 0,
    );
    expect(fixture.runner.steps).toBeLessThan(20);
  });
});
