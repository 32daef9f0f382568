import { describe, expect, test } from 'vitest';
import { toBudget } from '../../../src/compress/allocation.js';
import { cutWindows } from '../../../src/compress/calibration.js';
import { completeRecipe, needsCalibration, parsePattern } from '../../../src/compress/options.js';

describe('recipe', () => {
  test('patterns', () => {
    expect(parsePattern('unstructured')).toEqual({ keep: 0, of: 0, block: 1 });
    expect(parsePattern('2:4')).toEqual({ keep: 2, of: 4, block: 1 });
    expect(parsePattern('1x4')).toEqual({ keep: 0, of: 0, block: 4 });
    for (const wrong of ['4:2', '2:3', '0:4', '1x1', '1x3', 'rows', '2:4 ', ''])
      expect(() => parsePattern(wrong), wrong).toThrow(/pattern/);
  });

  test.each([
    [{ sparsity: 1.5 }, /sparsity must be from 0 to 0.99/],
    [{ sparsity: '0.5' as never }, /sparsity must be from/],
    [{ solver: 'obs' as never }, /solver must be one of/],
    [{ samples: 1.5 }, /samples must be a whole number/],
    [{ group: 64 }, /group must be 32 or 128/],
    [{ skip: '(' }, /skip is no regular expression/],
    [{ sparsty: 0.5 } as never, /sparsty is not a key/],
    [{ pattern: '2:4', allocation: 'owl' as const }, /allocation must be uniform/],
  ])('%j is refused by name', (given, message) => {
    expect(() => completeRecipe(given)).toThrow(message);
  });

  test('N:M decides the share of zeros; quantizing takes the embedding along; a kept mask needs no text', () => {
    expect(completeRecipe({ pattern: '1:4' }).sparsity).toBe(0.75);
    expect(completeRecipe({ quantize: 'i4' })).toMatchObject({ embeddings: 'i8', group: 32 });
    expect(completeRecipe({ quantize: 'i4', embeddings: 'none' }).embeddings).toBe('none');
    const kept = completeRecipe({ keepMask: true, quantize: 'i4', rounding: 'nearest' });
    expect(needsCalibration(kept)).toBe(false);
    expect(needsCalibration({ ...kept, rounding: 'gptq' })).toBe(true);
  });
});

test('an allocation meets its budget and stays within its bounds', () => {
  const sizes = [1, 4, 2, 9];
  const shares = toBudget([0.9, 0.4, 0.7, 0.99], sizes, 0.7);
  const mean = shares.reduce((sum, s, i) => sum + s * sizes[i]!, 0) / 16;
  expect(mean).toBeCloseTo(0.7, 9);
  expect(Math.max(...shares)).toBeLessThanOrEqual(0.98);
  expect(shares[0]! - shares[1]!).toBeCloseTo(0.5, 9);
});

test('windows are whole, in order and spread over the text', () => {
  const ids = Array.from({ length: 103 }, (_, i) => i);
  const { ids: cut, length } = cutWindows(ids, 3, 10);
  expect(length).toBe(10);
  expect([...cut].filter((_, i) => i % 10 === 0)).toEqual([0, 30, 60]);
  expect(cutWindows(ids, 50, 10).ids.length).toBe(100);
});
