import { describe, expect, it } from 'vitest';
import {
  availableMemory,
  type KvPlanInput,
  packageVersion,
  parseBytes,
  planGpuKv,
  planKv,
} from '../../src/config.js';

const MIB = 2 ** 20;
const base: KvPlanInput = {
  bytesPerToken: 1024,
  blockTokens: 16,
  maxNumSeqs: 4,
  maxPositions: 1024,
  available: 1000 * MIB,
  weightBytes: 100 * MIB,
};

describe('the KV plan', () => {
  it('holds every sequence at full length where there is room', () => {
    expect(planKv(base)).toEqual({ kvMemory: 4 * (1024 + 16) * 1024, maxModelLen: 1024 });
  });

  it('takes at most half of what the weights leave, and shortens sequences to fit', () => {
    const plan = planKv({ ...base, maxPositions: 1 << 20 });
    expect(plan.kvMemory).toBe(450 * MIB);
    expect(plan.maxModelLen * base.bytesPerToken).toBeLessThanOrEqual(plan.kvMemory);
    expect(plan.maxModelLen * base.bytesPerToken).toBeGreaterThan(plan.kvMemory * 0.99);
  });

  it('refuses what was asked for and does not fit, saying what would', () => {
    expect(() => planKv({ ...base, maxModelLen: 2048 })).toThrow('1024 positions');
    expect(() => planKv({ ...base, maxModelLen: 1024, kvMemory: 512 * 1024 })).toThrow('--kv-memory');
    expect(() => planKv({ ...base, kvMemory: 1000 })).toThrow('one block');
  });

  it('stays alive on a machine that has less than the weights may take', () => {
    expect(planKv({ ...base, available: 50 * MIB }).maxModelLen).toBe(48);
  });

  it('on a GPU asks for what all sequences can use, each as long as one can be that is there alone', () => {
    expect(planGpuKv(base)).toEqual({ kvMemory: 4 * (1024 + 16) * 1024, maxModelLen: 1024 });
    const long = planGpuKv({ ...base, maxPositions: 1 << 20 });
    expect(long).toEqual({ kvMemory: 4 * 900 * MIB, maxModelLen: 900 * 1024 - 16 });
    // What was asked for stands, whatever this estimate says: the engine sees what the weights take.
    expect(planGpuKv({ ...base, available: 50 * MIB, maxModelLen: 1024 }).maxModelLen).toBe(1024);
    expect(planGpuKv({ ...base, kvMemory: 32 * 1024 }).maxModelLen).toBe(16);
    expect(() => planGpuKv({ ...base, maxModelLen: 2048 })).toThrow('1024 positions');
  });
});

describe('bytes', () => {
  it('are read with units', () => {
    expect(['512', '1k', '1KiB', '2MB', '1.5GiB', '3g'].map((text) => parseBytes('--x', text))).toEqual([
      512,
      1024,
      1024,
      2 * MIB,
      1.5 * 2 ** 30,
      3 * 2 ** 30,
    ]);
    for (const text of ['', 'GiB', '-1', '1e9', '1 parsec'])
      expect(() => parseBytes('--x', text)).toThrow('--x');
  });
});

it('this process has memory left, and the package a version', () => {
  expect(availableMemory()).toBeGreaterThan(10 * MIB);
  expect(packageVersion()).toMatch(/^\d+\.\d+\.\d+/);
});
