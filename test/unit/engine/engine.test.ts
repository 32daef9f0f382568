import { describe, expect, it } from 'vitest';
import {
  Engine,
  type EngineOptions,
  type FinishEvent,
  type GenerationEvent,
} from '../../../src/engine/engine.js';
import { GREEDY } from '../../../src/engine/model-runner.js';
import { random } from '../tokenizer/fixtures.js';
import {
  expectedOutput,
  type FakeOptions,
  FakeRunner,
  prompt,
  promptLogprob,
  request,
} from './fake-runner.js';

function start(fake: FakeOptions = {}, options: Partial<EngineOptions> = {}) {
  const runner = new FakeRunner(fake);
  const engine = new Engine(runner, {
    maxNumSeqs: 16,
    maxNumBatchedTokens: 64,
    prefixCache: true,
    queueLimit: 100,
    queueTokenLimit: 100_000,
    ...options,
  });
  return { runner, engine };
}

async function idle(engine: Engine): Promise<void> {
  for (let i = 0; i < 10_000 && engine.stats().running + engine.stats().waiting > 0; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('Engine', () => {
  it('gives the tokens of the model, then one finish event', async () => {
    const { engine, runner } = start();
    const asked = request({ prompt: prompt(100, random(1)), maxTokens: 20 });
    const events: GenerationEvent[] = [];
    for await (const event of engine.submit(asked)) events.push(event);
    const ids = events.flatMap((event) => (event.type === 'token' ? [event.token] : []));
    expect(ids).toEqual(expectedOutput(asked));
    const finish = events.at(-1) as FinishEvent;
    expect(finish).toMatchObject({
      type: 'finish',
      finishReason: 'length',
      promptTokens: 100,
      outputTokens: 20,
      cachedTokens: 0,
      error: null,
    });
    const { arrival, scheduled, firstToken, finished } = finish.timings;
    expect([arrival, scheduled, firstToken, finished]).toEqual(
      [arrival, scheduled, firstToken, finished].sort(),
    );
    expect(runner.slots.size).toBe(0);
    expect(engine.stats()).toMatchObject({
      running: 0,
      waiting: 0,
      usedBlocks: 0,
      promptTokens: 100,
      generationTokens: 20,
    });
    engine.check();
  });

  it('ends at a stop token, but not before min tokens', async () => {
    const { engine } = start();
    const asked = request({ prompt: prompt(10, random(2)), maxTokens: 30 });
    const all = expectedOutput(asked);
    const stop = all[5]!;
    const events: GenerationEvent[] = [];
    for await (const event of engine.submit({ ...asked, stopTokenIds: [stop] })) events.push(event);
    expect(events.at(-1)).toMatchObject({
      finishReason: 'stop',
      stopTokenId: stop,
      outputTokens: all.indexOf(stop) + 1,
    });
    expect(events.at(-2)).toMatchObject({ type: 'token', token: stop, isStop: true });
    const sampling = { ...GREEDY, minTokens: 10 };
    const { tokens } = await engine.submit({ ...asked, sampling, stopTokenIds: [stop] }).result();
    expect(tokens.length).toBeGreaterThanOrEqual(10);
  });

  it('ends at the context length', async () => {
    const { engine } = start({ maxModelLen: 32 });
    const { tokens, finish } = await engine
      .submit(request({ prompt: prompt(30, random(3)), maxTokens: 100 }))
      .result();
    expect(tokens.length).toBe(2);
    expect(finish.finishReason).toBe('length');
  });

  it('computes a prompt alone, with its log-probabilities once, past the prefix cache', async () => {
    const { engine } = start({ maxBatchedTokens: 13 });
    const ids = prompt(50, random(4));
    await engine.submit(request({ prompt: ids })).result();
    const sampling = { ...GREEDY, promptLogprobs: 2 };
    const events: GenerationEvent[] = [];
    for await (const event of engine.submit(request({ prompt: ids, maxTokens: 0, sampling })))
      events.push(event);
    expect(events.map(({ type }) => type)).toEqual(['prompt', 'finish']);
    const [rows, finish] = events as [Extract<GenerationEvent, { type: 'prompt' }>, FinishEvent];
    expect([...rows.logprobs]).toEqual(
      Array.from({ length: 49 }, (_, p) => Math.fround(promptLogprob(ids, p))),
    );
    expect(rows.topIds.length).toBe(98);
    expect(finish).toMatchObject({ finishReason: 'length', outputTokens: 0, cachedTokens: 0 });
    await idle(engine);
    engine.check();
  });

  it('takes what stands before the first wanted log-probability from the prefix cache', async () => {
    const { engine, runner } = start({}, { maxNumBatchedTokens: 32 });
    const ids = prompt(100, random(6));
    const ask = async (from: number) => {
      const sampling = { ...GREEDY, promptLogprobs: 0, promptLogprobsFrom: from };
      const rows: number[] = [];
      for await (const event of engine.submit(request({ prompt: ids, maxTokens: 0, sampling })))
        if (event.type === 'prompt') rows.push(...event.logprobs);
      return rows;
    };
    const all = await ask(1);
    const before = runner.computedTokens;
    // Position 79 predicts token 80 and must be computed, so the block that it ends cannot be taken: four are.
    expect(await ask(80)).toEqual(all.slice(79));
    expect(runner.computedTokens - before).toBe(100 - 64);
    // Two that differ behind a shared context compute it once.
    const [a, b] = [7, 8].map((seed) =>
      Int32Array.from([...prompt(64, random(9)), ...prompt(9, random(seed))]),
    );
    const start64 = runner.computedTokens;
    const sampling = { ...GREEDY, promptLogprobs: 0, promptLogprobsFrom: 65 };
    await Promise.all(
      [a!, b!].map((prompt) => engine.submit(request({ prompt, maxTokens: 0, sampling })).result()),
    );
    expect(runner.computedTokens - start64).toBe(64 + 9 + 9);
    await idle(engine);
    engine.check();
  });

  it('shares the prompt of n requests submitted at once', async () => {
    const { engine, runner } = start({}, { maxNumBatchedTokens: 32 });
    const ids = prompt(96, random(5));
    const asked = [0n, 1n, 2n, 3n].map((seed) =>
      request({ prompt: ids, sampling: { ...GREEDY, seed }, maxTokens: 4 }),
    );
    const results = await Promise.all(asked.map((one) => engine.submit(one).result()));
    for (const [i, { tokens }] of results.entries()) expect(tokens).toEqual(expectedOutput(asked[i]!));
    // The prompt once, then for each of the others its last token, and three decode steps for each.
    expect(runner.computedTokens).toBe(96 + 3 + 4 * 3);
    expect(runner.copies).toBe(3);
    expect(results.map(({ finish }) => finish.cachedTokens)).toEqual([0, 95, 95, 95]);
    await idle(engine);
    engine.check();
  });

  it('lets unlike requests start together', async () => {
    const { engine, runner } = start({ maxBatchedTokens: 64 });
    const asked = [6, 7, 8].map((seed) => request({ prompt: prompt(20, random(seed)), maxTokens: 3 }));
    await Promise.all(asked.map((one) => engine.submit(one).result()));
    expect(runner.steps).toBe(3);
  });

  it('keeps decoding while a long prompt is computed in chunks', async () => {
    const { engine, runner } = start({ maxBatchedTokens: 16, maxModelLen: 512 });
    const short = request({ prompt: prompt(4, random(9)), maxTokens: 40 });
    const long = request({ prompt: prompt(200, random(10)), maxTokens: 2 });
    const order: string[] = [];
    const first = engine.submit(short);
    const second = engine.submit(long);
    await Promise.all([
      (async () => {
        for await (const { type } of first) order.push(`short ${type}`);
      })(),
      (async () => {
        for await (const { type } of second) order.push(`long ${type}`);
      })(),
    ]);
    expect(order.indexOf('long token')).toBeGreaterThan(10);
    expect(runner.largestStep).toBeLessThanOrEqual(16);
  });

  it('serves priorities first, then in order of arrival', async () => {
    const { engine } = start({ maxSlots: 1 });
    const done: string[] = [];
    engine.on('finished', ({ id }) => done.push(id));
    const ask = (id: string, priority: number) =>
      engine.submit(request({ id, prompt: prompt(5, random(11)), maxTokens: 2, priority })).result();
    await Promise.all([ask('later', 0), ask('last', 1), ask('first', -1), ask('second', -1)]);
    expect(done).toEqual(['first', 'second', 'later', 'last']);
  });

  it('preempts the youngest under pressure, and changes no output by it', async () => {
    const { engine } = start({ numBlocks: 8 });
    const asked = [12, 13, 14, 15].map((seed) =>
      request({ prompt: prompt(20, random(seed)), maxTokens: 60 }),
    );
    const finished: string[] = [];
    engine.on('finished', ({ id }) => finished.push(id));
    const results = await Promise.all(asked.map((one) => engine.submit(one).result()));
    for (const [i, { tokens }] of results.entries()) expect(tokens).toEqual(expectedOutput(asked[i]!));
    const { preemptions } = engine.stats();
    expect(preemptions).toBeGreaterThan(0);
    // Each comes back only after another has left.
    for (const { finish } of results) expect(finish.preemptions).toBeLessThanOrEqual(asked.length);
    expect(results[0]!.finish.preemptions).toBe(0);
    expect(finished[0]).toBe(asked[0]!.id);
    await idle(engine);
    engine.check();
  });

  it('refuses what can never fit, and what is malformed', () => {
    const { engine } = start({ numBlocks: 4, maxModelLen: 128 });
    const code = (fields: Parameters<typeof request>[0]) => {
      try {
        engine.submit(request(fields));
      } catch (error) {
        return (error as { code: string }).code;
      }
      return null;
    };
    expect(code({ prompt: prompt(30, random(1)), maxTokens: 90 })).toBe('context_length_exceeded');
    expect(code({ prompt: prompt(128, random(1)), maxTokens: 1 })).toBe('context_length_exceeded');
    expect(code({ prompt: new Int32Array() })).toBe('invalid_value');
    expect(code({ prompt: Int32Array.of(1, -1) })).toBe('invalid_value');
    expect(code({ prompt: Int32Array.of(1000) })).toBe('invalid_value');
    expect(code({ prompt: Int32Array.of(1), maxTokens: 1.5 })).toBe('invalid_value');
    expect(engine.stats().waiting).toBe(0);
  });

  it('runs a request that fills the cache to the last block', async () => {
    const { engine } = start({ numBlocks: 4 });
    const asked = request({ prompt: prompt(32, random(16)), maxTokens: 33 });
    for (let round = 0; round < 2; round++) {
      const { tokens } = await engine.submit(asked).result();
      expect(tokens).toEqual(expectedOutput(asked));
    }
  });

  it('bounds the queue in requests and in tokens', async () => {
    const { engine } = start({ maxSlots: 2 }, { queueLimit: 3, queueTokenLimit: 60 });
    const ask = (length: number) =>
      engine.submit(request({ prompt: prompt(length, random(17)), maxTokens: 2 }));
    const accepted = [ask(10), ask(10), ask(10), ask(10)];
    expect(() => ask(30)).toThrow(/too many prompt tokens/);
    accepted.push(ask(10));
    expect(() => ask(1)).toThrow(/too many requests/);
    expect(() => engine.assertAccepts()).toThrow(/too many requests/);
    const results = await Promise.all(accepted.map((one) => one.result()));
    expect(results.every(({ finish }) => finish.finishReason === 'length')).toBe(true);
    engine.assertAccepts();
  });

  it.each(['queue', 'prefill', 'decode'])(
    'notices a cancel in the %s and frees the blocks within one step',
    async (where) => {
      const { engine, runner } = start({ maxSlots: 1, maxBatchedTokens: 16 });
      const other = request({ prompt: prompt(8, random(18)), maxTokens: 100 });
      const mine = request({ prompt: prompt(200, random(19)), maxTokens: 100 });
      const busy = where === 'queue' ? engine.submit(other) : null;
      const generation = engine.submit(mine);
      const seen: GenerationEvent[] = [];
      let stepsAtCancel = -1;
      engine.on('step', () => {
        if (stepsAtCancel >= 0) return;
        const enough = where === 'decode' ? seen.length > 3 : runner.steps > 3;
        if (!enough) return;
        stepsAtCancel = runner.steps;
        generation.cancel();
      });
      for await (const event of generation) seen.push(event);
      expect(seen.at(-1)).toMatchObject({ type: 'finish', finishReason: 'abort' });
      busy?.cancel();
      await idle(engine);
      expect(runner.steps - stepsAtCancel).toBeLessThanOrEqual(2);
      expect(engine.stats()).toMatchObject({ usedBlocks: 0, running: 0, waiting: 0 });
      await new Promise((resolve) => setImmediate(resolve));
      expect(runner.slots.size).toBe(0);
      engine.check();
    },
  );

  it('cancels when the reader leaves its loop', async () => {
    const { engine } = start();
    for await (const event of engine.submit(request({ prompt: prompt(8, random(20)), maxTokens: 400 }))) {
      if (event.type === 'token') break;
    }
    await idle(engine);
    expect(engine.stats().generationTokens).toBeLessThan(10);
    engine.check();
  });

  it('fails one request alone when its values are not finite, and trusts nothing it left', async () => {
    const { engine } = start({ poison: 777 });
    const good = request({ prompt: prompt(40, random(21)), maxTokens: 5 });
    const bad = request({ prompt: Int32Array.from([...prompt(40, random(22)), 777]) });
    const [fine, failed] = await Promise.all([engine.submit(good).result(), engine.submit(bad).result()]);
    expect(fine.tokens).toEqual(expectedOutput(good));
    expect(failed.finish).toMatchObject({ finishReason: 'error', error: { code: 'non_finite_logits' } });
    expect(engine.healthy()).toBe(true);
    engine.check();
  });

  it('tells a request that rules out every token from a model that went wrong', async () => {
    const { engine } = start({ poison: 777, poisonError: 'no_token_allowed' });
    const shared = prompt(40, random(22));
    const { finish } = await engine.submit(request({ prompt: Int32Array.from([...shared, 777]) })).result();
    expect(finish).toMatchObject({ finishReason: 'error', error: { code: 'no_token_allowed' } });
    expect(engine.healthy()).toBe(true);
    engine.check();
  });

  it('fails the requests of a failed step and goes on', async () => {
    let fail = true;
    const { engine } = start({
      beforeStep: () => {
        if (fail) throw new Error('out of luck');
      },
    });
    const asked = request({ prompt: prompt(8, random(23)) });
    for (let i = 0; i < 3; i++) {
      expect(engine.healthy()).toBe(true);
      const { finish } = await engine.submit(asked).result();
      expect(finish).toMatchObject({ finishReason: 'error', error: { code: 'engine_failed' } });
    }
    expect(engine.healthy()).toBe(false);
    fail = false;
    expect((await engine.submit(asked).result()).tokens).toEqual(expectedOutput(asked));
    expect(engine.healthy()).toBe(true);
    expect(engine.stats().failedSteps).toBe(3);
    engine.check();
  });

  it('fails a request alone whose parameters the runner refuses', async () => {
    const { engine, runner } = start();
    const good = request({ prompt: prompt(8, random(24)) });
    const bad = request({ prompt: prompt(8, random(25)), sampling: { ...GREEDY, temperature: -1 } });
    const [refused, fine] = await Promise.all([engine.submit(bad).result(), engine.submit(good).result()]);
    expect(refused.finish).toMatchObject({ finishReason: 'error' });
    expect(fine.tokens).toEqual(expectedOutput(good));
    await idle(engine);
    expect(runner.slots.size).toBe(0);
    engine.check();
  });

  it('pauses a request whose reader sleeps, and nobody else', async () => {
    const { engine } = start({ maxModelLen: 4096, numBlocks: 300, maxSlots: 1 });
    const slow = request({ prompt: prompt(8, random(26)), maxTokens: 1400 });
    const quick = request({ prompt: prompt(8, random(27)), maxTokens: 50 });
    const sleeping = engine.submit(slow);
    await new Promise((resolve) => setTimeout(resolve, 20));
    // One slot only, held by the sleeper: it has to give it up.
    const { tokens } = await engine.submit(quick).result();
    expect(tokens).toEqual(expectedOutput(quick));
    for (let i = 0; i < 100; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(engine.stats().generationTokens).toBeLessThan(1200);
    const late = await sleeping.result();
    expect(late.tokens).toEqual(expectedOutput(slow, 4096));
    engine.check();
  });

  it('calls itself unhealthy while a step outlasts the watchdog', async () => {
    let release = () => {};
    const stuck = new Promise<void>((resolve) => {
      release = resolve;
    });
    const { engine } = start({ beforeStep: () => stuck }, { watchdogMs: 20 });
    const answer = engine.submit(request({ prompt: prompt(8, random(28)) })).result();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(engine.healthy()).toBe(false);
    release();
    await answer;
    expect(engine.healthy()).toBe(true);
  });

  it('drains: admits nothing, finishes what runs, cancels what takes too long', async () => {
    const { engine, runner } = start();
    const asked = request({ prompt: prompt(8, random(29)), maxTokens: 20 });
    const running = engine.submit(asked).result();
    const draining = engine.drain(5000);
    expect(() => engine.submit(asked)).toThrow(/shutting down/);
    await draining;
    expect((await running).tokens).toEqual(expectedOutput(asked));
    await engine.close();
    expect(runner.closed).toBe(true);

    const slow = start({ beforeStep: () => new Promise((resolve) => setTimeout(resolve, 5)) });
    const endless = slow.engine.submit(request({ prompt: prompt(8, random(30)), maxTokens: 500 })).result();
    await slow.engine.drain(30);
    expect((await endless).finish.finishReason).toBe('abort');
    await slow.engine.close();
    slow.engine.check();
  });

  it('stops for good, with an error to everyone, when its own books are wrong', async () => {
    const { engine, runner } = start();
    runner.closeSlot = () => {
      throw new Error('slot 0 is not open');
    };
    const first = await engine.submit(request({ prompt: prompt(8, random(31)), maxTokens: 1 })).result();
    expect(first.finish).toMatchObject({ finishReason: 'error', error: { code: 'engine_failed' } });
    expect(engine.healthy()).toBe(false);
    expect(() => engine.submit(request({ prompt: prompt(8, random(32)) }))).toThrow(/engine failed/);
  });

  it('survives a listener that throws', async () => {
    const { engine } = start();
    engine.on('step', () => {
      throw new Error('a metrics bug');
    });
    const asked = request({ prompt: prompt(8, random(33)) });
    expect((await engine.submit(asked).result()).tokens).toEqual(expectedOutput(asked));
  });
});
