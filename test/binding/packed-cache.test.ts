import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NativeOptions } from '../../src/native/index.js';
import { entry, expectSameBits, greedy, load, logitsOf, prompt } from './support.js';

describe('the packed cache', () => {
  let folder: string;
  const before = process.env.FILIGREE_CACHE;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'filigree-cache-'));
    process.env.FILIGREE_CACHE = folder;
  });
  afterAll(() => {
    if (before === undefined) delete process.env.FILIGREE_CACHE;
    else process.env.FILIGREE_CACHE = before;
    rmSync(folder, { recursive: true });
  });

  test('serves the second start with the same bits; one that is damaged or foreign is rebuilt with a warning', async () => {
    const tokens = prompt(11, 30);
    const warnings: string[] = [];
    const start = async (options: Partial<NativeOptions> = {}) => {
      const runner = await load({
        packedCache: true,
        onWarning: (message) => warnings.push(message),
        ...options,
      });
      greedy(runner, 0, tokens);
      const [logits] = await logitsOf(runner, [entry(0, tokens)]);
      return { logits: logits!, fromCache: runner.info.fromCache };
    };
    const first = await start();
    const second = await start();
    expect([first.fromCache, second.fromCache]).toEqual([false, true]);
    expectSameBits(second.logits, first.logits);
    expect((await start({ weights: 'bf16' })).fromCache).toBe(false);

    const packed = join(folder, 'packed');
    expect(readdirSync(packed).filter((name) => name.includes('tmp'))).toEqual([]);
    const good = readdirSync(packed).map((name) => ({
      path: join(packed, name),
      data: readFileSync(join(packed, name)),
    }));
    expect(good.length).toBe(2);
    expect(warnings).toEqual([]);
    for (const spoil of [
      (data: Buffer) => data.subarray(0, data.length >> 1),
      (data: Buffer) => data.subarray(0, 3),
      (data: Buffer) => Buffer.from(data.map((byte, i) => (i === data.length - 700 ? byte ^ 1 : byte))),
      (data: Buffer) => Buffer.from(data.map((byte, i) => (i === 60 ? byte ^ 255 : byte))),
      (data: Buffer) => Buffer.alloc(data.length, 0xff),
    ]) {
      for (const { path, data } of good) writeFileSync(path, spoil(data));
      const rebuilt = await start();
      expect(rebuilt.fromCache).toBe(false);
      expect(warnings.splice(0).join()).toMatch(/written again/);
      expectSameBits(rebuilt.logits, first.logits);
      expect((await start()).fromCache).toBe(true);
    }
    // Swapped: each is whole, and belongs to the other form.
    cpSync(good[0]!.path, `${good[0]!.path}.copy`);
    writeFileSync(good[0]!.path, good[1]!.data);
    writeFileSync(good[1]!.path, good[0]!.data);
    expect((await start()).fromCache).toBe(false);
    expect(warnings.splice(0).join()).toMatch(/another model or another form/);
  });

  test('a cache that cannot be written costs a warning', async () => {
    writeFileSync(join(folder, 'file'), '');
    process.env.FILIGREE_CACHE = join(folder, 'file');
    const warnings: string[] = [];
    const runner = await load({ packedCache: true, onWarning: (message) => warnings.push(message) });
    process.env.FILIGREE_CACHE = folder;
    expect(runner.info.fromCache).toBe(false);
    expect(warnings.join()).toMatch(/not cached/);
  });
});
