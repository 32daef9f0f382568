import { describe, expect, test } from 'vitest';
import { GREEDY, type StepEntry } from '../../src/engine/model-runner.js';
import type { NativeRunner } from '../../src/native/index.js';
import { entry, expectSameBits, greedy, load, NONE, prompt } from './support.js';

describe('pooled prompts', () => {
  const pool = (runner: NativeRunner, slot: number, pooling: 'mean' | 'last', tokens: Int32Array) =>
    runner.openSlot(slot, { ...GREEDY, pooling }, tokens, NONE);
  const quiet = (item: StepEntry): StepEntry => ({ ...item, sample: false });

  test('are the same however the prompt is cut into chunks and whoever is beside it', async () => {
    const tokens = prompt(11, 50);
    const runner = await load({ weights: 'f32' });
    for (const pooling of ['mean', 'last'] as const) {
      pool(runner, 0, pooling, tokens);
      const [whole] = await runner.step({ entries: [quiet(entry(0, tokens))], copies: [] });
      expect(whole?.pooled).toHaveLength(runner.info.hiddenSize);
      expect(whole?.error).toBeNull();
      pool(runner, 1, pooling, tokens);
      const states: (Float32Array | null)[] = [];
      for (const [at, end] of [
        [0, 7],
        [7, 32],
        [32, 50],
      ] as const) {
        greedy(runner, 2, prompt(3, 9));
        const [part] = await runner.step({
          entries: [quiet(entry(1, tokens.subarray(at, end), at)), entry(2, prompt(3, 9))],
          copies: [],
        });
        states.push(part?.pooled ?? null);
      }
      expect(states.slice(0, 2)).toEqual([null, null]);
      expectSameBits(states[2]!, whole!.pooled!);
    }
  });

  test('a mean of one token is the last token, and a mean is the mean of the lasts of its beginnings', async () => {
    const tokens = prompt(5, 4);
    const runner = await load({ weights: 'f32' });
    const last: Float32Array[] = [];
    for (let n = 1; n <= tokens.length; n++) {
      pool(runner, 0, 'last', tokens.subarray(0, n));
      const [output] = await runner.step({ entries: [quiet(entry(0, tokens.subarray(0, n)))], copies: [] });
      last.push(output!.pooled!);
    }
    pool(runner, 1, 'mean', tokens);
    const [mean] = await runner.step({ entries: [quiet(entry(1, tokens))], copies: [] });
    mean!.pooled!.forEach((value, i) => {
      const expected = last.reduce((sum, state) => sum + state[i]!, 0) / tokens.length;
      expect(value).toBeCloseTo(expected, 5);
    });
  });
});
