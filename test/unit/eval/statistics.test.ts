import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { compare, estimate, type Sample } from '../../../src/eval/index.js';
import { PythonRandom } from '../../../src/eval/python-random.js';
import { accuracy, perplexity } from '../../../src/eval/types.js';

const samples = (values: number[], fields: Partial<Sample> = {}): Sample[] =>
  values.map((value, index) => ({ index, values: { m: value }, detail: {}, ...fields }));

describe('estimates', () => {
  it('of an accuracy are the mean and its standard error with n - 1', () => {
    const { value, stderr, n } = estimate(samples([1, 0, 1, 1]), accuracy('m'));
    expect([value, n]).toEqual([0.75, 4]);
    // Sample deviation 0.5 over the root of 4.
    expect(stderr).toBeCloseTo(0.25, 12);
    expect(estimate(samples([1]), accuracy('m')).stderr).toBeNull();
  });

  it('of a perplexity are exp of the weighted mean', () => {
    const weighted = samples([4, 9]).map((s, i) => ({ ...s, weights: { m: [2, 3][i] as number } }));
    expect(estimate(weighted, perplexity('m')).value).toBeCloseTo(Math.exp(13 / 5), 12);
  });
});

describe('comparisons', () => {
  const first = [1, 1, 0, 1, 0, 1, 1, 0];
  const second = [1, 0, 0, 1, 0, 1, 1, 1];

  it('pair the items: what both share does not count as uncertainty', () => {
    const { difference, recovery } = compare(samples(first), samples(second), accuracy('m'));
    expect(difference.value).toBe(0);
    const paired = first.map((a, i) => (second[i] as number) - a);
    const deviation = Math.sqrt(paired.reduce((sum, d) => sum + d * d, 0) / 7);
    expect(difference.stderr).toBeCloseTo(deviation / Math.sqrt(8), 12);
    expect(recovery.value).toBe(1);
    expect(compare(samples(first), samples(first), accuracy('m')).difference.stderr).toBe(0);
  });

  it('take off what guessing gives, where the first is clearly above it', () => {
    const chance = { chance: 0.25 };
    const { recovery, recoveryAboveChance } = compare(
      samples([1, 1, 1, 0, 1, 1, 1, 0], chance),
      samples([1, 1, 0, 0, 1, 1, 0, 0], chance),
      accuracy('m'),
    );
    expect(recovery.value).toBeCloseTo(2 / 3, 12);
    expect(recoveryAboveChance?.value).toBeCloseTo(0.5, 12);
    for (const hardly of [
      [0, 0, 0, 0],
      [1, 0, 1, 0],
    ])
      expect(
        compare(samples(hardly, chance), samples([1, 1, 1, 1], chance), accuracy('m')).recoveryAboveChance,
      ).toBeNull();
  });

  it('have the standard error that repeated draws show', () => {
    // 2000 draws of 60 items from a fixed mixture: the spread of the recovery against the mean of its estimates.
    let state = 1;
    const random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
    const values: number[] = [];
    let claimed = 0;
    for (let draw = 0; draw < 2000; draw++) {
      const a: number[] = [];
      const b: number[] = [];
      for (let i = 0; i < 60; i++) {
        const hard = random();
        a.push(Number(hard < 0.6));
        b.push(Number(hard < 0.5 || random() < 0.1));
      }
      const { recovery } = compare(samples(a), samples(b), accuracy('m'));
      values.push(recovery.value);
      claimed += (recovery.stderr as number) / 2000;
    }
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const spread = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
    expect(claimed / spread).toBeGreaterThan(0.9);
    expect(claimed / spread).toBeLessThan(1.1);
  });

  it('of perplexities are ratios, and refuse samples of different items', () => {
    const { recovery } = compare(samples([2, 3]), samples([2.5, 3.5]), perplexity('m'));
    expect(recovery.value).toBeCloseTo(Math.exp(-0.5), 12);
    expect(() => compare(samples([1]), samples([1, 1]), accuracy('m'))).toThrow('same items');
  });
});

it("draws what Python's random.sample draws", () => {
  const path = join(import.meta.dirname, '../../fixtures/eval/python_sample.json');
  const draws = JSON.parse(readFileSync(path, 'utf8')) as [number, number, number[]][];
  const random = new PythonRandom(1234);
  for (const [population, count, drawn] of draws) expect(random.sample(population, count)).toEqual(drawn);
});
