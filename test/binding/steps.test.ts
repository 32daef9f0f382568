import { describe, expect, test } from 'vitest';
import { GREEDY, type StepEntry } from '../../src/engine/model-runner.js';
import { nativeGpus, nativeInfo } from '../../src/native/index.js';
import { DEVICE } from '../device.js';
import { entry, expectSameBits, greedy, load, logitsOf, manifest, NONE, prompt } from './support.js';

describe('a row of logits depends on its own sequence alone, bit for bit', () => {
  for (const weights of ['f32', 'bf16', 'i8', 'i4'] as const)
    for (const kv of DEVICE === 'cuda' ? (['f16', 'bf16'] as const) : (['f16', 'i8'] as const))
      test(`${weights} weights, ${kv} cache: alone, among 15 others, in chunks of any size, on any number of threads`, async () => {
        const tokens = prompt(1, 61);
        const runner = await load({ weights, kv });
        greedy(runner, 0, tokens);
        const [alone] = await logitsOf(runner, [entry(0, tokens)]);
        expect(alone!.some((value) => value !== alone![0])).toBe(true);

        for (const chunk of [1, 5, 16, 40]) {
          let last: Float32Array | undefined;
          for (let at = 0; at < tokens.length; at += chunk) {
            const piece = tokens.subarray(at, at + chunk);
            [last] = await logitsOf(runner, [{ ...entry(0, piece, at, 9) }]);
          }
          expectSameBits(last!, alone!);
        }

        const others = Array.from({ length: 15 }, (_, i) => entry(i + 1, prompt(i + 2, 1 + ((i * 5) % 11))));
        for (const other of others) greedy(runner, other.slot, other.tokens);
        const crowd = [...others.slice(0, 7), entry(0, tokens), ...others.slice(7)];
        expectSameBits((await logitsOf(runner, crowd))[7]!, alone!);

        for (const threads of [1, 3, 4]) {
          const other = await load({ weights, kv, threads });
          greedy(other, 0, tokens);
          expectSameBits((await logitsOf(other, [entry(0, tokens)]))[0]!, alone!);
        }
      });

  test('a step longer than the engine runs at once gives what short ones give', async () => {
    const tokens = prompt(3, 100);
    const short = await load({ maxBatchedTokens: 7 });
    greedy(short, 0, tokens);
    let last: Float32Array | undefined;
    for (let at = 0; at < tokens.length; at += 7) {
      [last] = await logitsOf(short, [entry(0, tokens.subarray(at, at + 7), at)]);
    }
    const long = await load();
    greedy(long, 0, tokens);
    expectSameBits((await logitsOf(long, [entry(0, tokens)]))[0]!, last!);
  });
});

describe('steps', () => {
  test('a copied block serves as the original does', async () => {
    const tokens = prompt(4, 20);
    const runner = await load();
    greedy(runner, 0, tokens);
    greedy(runner, 1, tokens);
    await runner.step({ entries: [{ ...entry(0, tokens), sample: false }], copies: [] });
    const next = Int32Array.of(3);
    const [original] = await logitsOf(runner, [entry(0, next, 20)]);
    const { logits } = await runner.stepWithLogits({
      entries: [entry(1, next, 20, 40)],
      copies: [
        { from: 0, to: 40 },
        { from: 1, to: 41 },
      ],
    });
    expectSameBits(logits, original!);
  });

  test('the sampled token is the largest logit; log-probabilities sum to one over the vocabulary', async () => {
    const tokens = prompt(5, 12);
    const runner = await load();
    const all = manifest.config.vocabSize;
    greedy(runner, 0, tokens, { logprobs: Math.min(all, 4096) });
    const { outputs, logits } = await runner.stepWithLogits({ entries: [entry(0, tokens)], copies: [] });
    const [output] = outputs;
    expect(output!.token).toBe(logits.indexOf(Math.max(...logits)));
    expect(output!.top!.ids[0]).toBe(output!.token);
    expect(output!.top!.logprobs[0]).toBe(output!.logprob);
    expect(output!.top!.logprobs.reduce((sum, lp) => sum + Math.exp(lp), 0)).toBeCloseTo(1, 4);
  });

  test('prompt log-probabilities are those of decoding token by token, in chunks of any size', async () => {
    const tokens = prompt(6, 33);
    const runner = await load();
    const scored: Float32Array[] = [];
    for (const chunk of [33, 8]) {
      runner.openSlot(0, { ...GREEDY, promptLogprobs: 2 }, tokens, NONE);
      const rows: number[] = [];
      for (let at = 0; at < tokens.length; at += chunk) {
        const [output] = await runner.step({
          entries: [entry(0, tokens.subarray(at, at + chunk), at)],
          copies: [],
        });
        rows.push(...output!.prompt!.logprobs);
        expect(output!.prompt!.topIds.length).toBe(2 * output!.prompt!.logprobs.length);
      }
      scored.push(Float32Array.from(rows));
    }
    expect(scored[0]!.length).toBe(32);
    expectSameBits(scored[1]!, scored[0]!);
    // From a later token on: the same values, in whatever chunk they fall.
    runner.openSlot(0, { ...GREEDY, promptLogprobs: 0, promptLogprobsFrom: 11 }, tokens, NONE);
    const late: number[] = [];
    for (const [at, end] of [
      [0, 5],
      [5, 20],
      [20, 33],
    ] as const) {
      const [output] = await runner.step({ entries: [entry(0, tokens.subarray(at, end), at)], copies: [] });
      late.push(...output!.prompt!.logprobs);
    }
    expectSameBits(Float32Array.from(late), scored[0]!.subarray(10));
    greedy(runner, 1, tokens);
    for (const at of [0, 17, 31]) {
      const [logits] = await logitsOf(runner, [entry(1, tokens.subarray(0, at + 1))]);
      const largest = Math.max(...logits!);
      const lse = largest + Math.log(logits!.reduce((sum, l) => sum + Math.exp(l - largest), 0));
      expect(scored[0]![at]).toBeCloseTo(logits![tokens[at + 1]!]! - lse, 4);
    }
  });

  test('a seed decides what is drawn; the stream goes on after a preemption', async () => {
    const tokens = prompt(7, 9);
    const runner = await load();
    const params = { ...GREEDY, temperature: 1.5, seed: 42n };
    const draw = async (count: number, output: number[]): Promise<number[]> => {
      runner.openSlot(0, params, tokens, Int32Array.from(output));
      const drawn = [...output];
      let next = Int32Array.from([...tokens, ...output]);
      for (let position = 0; drawn.length < count; ) {
        const [out] = await runner.step({ entries: [entry(0, next, position)], copies: [] });
        drawn.push(out!.token);
        position += next.length;
        next = Int32Array.of(out!.token);
      }
      return drawn;
    };
    const whole = await draw(20, []);
    expect(await draw(20, whole.slice(0, 11))).toEqual(whole);
    expect(new Set(whole).size).toBeGreaterThan(1);
  });

  test('a row whose parameters leave no token fails alone and says so', async () => {
    const tokens = prompt(10, 5);
    const runner = await load();
    greedy(runner, 0, tokens);
    greedy(runner, 1, tokens, { allowedTokenIds: [7], badWords: [[7]] });
    const [fine, none] = await runner.step({ entries: [entry(0, tokens), entry(1, tokens)], copies: [] });
    expect(fine).toMatchObject({ error: null });
    expect(none).toMatchObject({ token: -1, error: 'no_token_allowed' });
  });
});

describe('what does not fit is refused before anything runs, and the engine goes on', () => {
  const cases: [string, (e: StepEntry) => StepEntry, RegExp][] = [
    ['a slot out of range', (e) => ({ ...e, slot: 99 }), /slot 99/],
    ['a slot that is not open', (e) => ({ ...e, slot: 5 }), /slot 5 is not open/],
    ['no tokens', (e) => ({ ...e, tokens: NONE }), /no tokens/],
    ['a token outside the vocabulary', (e) => ({ ...e, tokens: Int32Array.of(1 << 20) }), /vocabulary/],
    ['a negative token', (e) => ({ ...e, tokens: Int32Array.of(-1) }), /token id -1/],
    ['a negative position', (e) => ({ ...e, position: -1 }), /positions -1/],
    ['positions past the context', (e) => ({ ...e, position: 127 }), /context of 128/],
    ['a block out of range', (e) => ({ ...e, blockTable: Int32Array.of(1 << 28) }), /is not one of/],
    ['a block table too short', (e) => ({ ...e, blockTable: NONE }), /block table holds 0 of 1/],
  ];
  for (const [name, spoil, message] of cases)
    test(name, async () => {
      const tokens = prompt(8, 6);
      const runner = await load();
      greedy(runner, 0, tokens);
      const [before] = await logitsOf(runner, [entry(0, tokens)]);
      await expect(runner.step({ entries: [spoil(entry(0, tokens))], copies: [] })).rejects.toThrow(message);
      expectSameBits((await logitsOf(runner, [entry(0, tokens)]))[0]!, before!);
    });

  test('the same slot twice, a budget exceeded, a copy out of range', async () => {
    const tokens = prompt(9, 5);
    const runner = await load({ maxBatchedTokens: 8 });
    greedy(runner, 0, tokens);
    greedy(runner, 1, tokens);
    const step = (entries: StepEntry[], copies = [] as { from: number; to: number }[]) =>
      runner.step({ entries, copies });
    await expect(step([entry(0, tokens), entry(0, tokens)])).rejects.toThrow(/twice|budget/);
    await expect(step([entry(0, tokens), entry(1, tokens)])).rejects.toThrow(/budget of 8/);
    await expect(step([], [{ from: 0, to: 1 << 29 }])).rejects.toThrow(/copy of block/);
    expect(await step([])).toEqual([]);
  });

  test('openSlot checks slot, prompt and parameters at once', async () => {
    const runner = await load();
    expect(() => greedy(runner, 20, prompt(1, 3))).toThrow(/slot must be a whole number from 0 to 19/);
    expect(() => greedy(runner, 0, Int32Array.of(1 << 24))).toThrow(/vocabulary/);
    expect(() => greedy(runner, 0, new Int32Array(500))).toThrow(/exceeds the context/);
    expect(() => greedy(runner, 0, prompt(1, 3), { logprobs: 1e9 })).toThrow(/logprobs/);
    expect(() => greedy(runner, 0, prompt(1, 3), { temperature: Number.NaN })).toThrow(/temperature/);
    expect(() => greedy(runner, 0, prompt(1, 3), { logitBias: [[1 << 24, 1]] })).toThrow(/logitBias/);
    expect(() => runner.openSlot(0, GREEDY, [1, 2] as unknown as Int32Array, NONE)).toThrow(/Int32Array/);
  });

  test('loading: an unknown instruction set, no GPU, a cache too small, a tensor that is missing or misshapen', async () => {
    const { cudaObstacle } = await nativeInfo();
    if (cudaObstacle !== null) await expect(load({ device: 'cuda' })).rejects.toThrow(cudaObstacle);
    await expect(load({ device: 'cpu', tensorParallel: 2 })).rejects.toThrow(/--tensor-parallel/);
    const { gpus } = await nativeGpus();
    const more = gpus.length + 1;
    await expect(load({ device: 'cuda', tensorParallel: more })).rejects.toThrow(
      cudaObstacle ?? `--tensor-parallel ${more}`,
    );
    await expect(load({ isa: 'pentium' })).rejects.toMatchObject({ code: 'isa_unsupported' });
    await expect(load({ kvMemory: 1000 })).rejects.toThrow(/--kv-memory/);
    await expect(load({}, { ...manifest, tensors: manifest.tensors.slice(1) })).rejects.toMatchObject({
      code: 'model_invalid',
      message: expect.stringMatching(/missing/),
    });
    const { config } = manifest;
    const wider = { ...manifest, config: { ...config, hiddenSize: config.hiddenSize * 2 } };
    await expect(load({}, wider)).rejects.toThrow(/shape/);
    await expect(load({}, { ...manifest, config: { ...config, numKvHeads: 0 } })).rejects.toThrow();
  });
});
