import { describe, expect, it } from 'vitest';
import { BlockManager, BlockTable } from '../../../src/engine/block-manager.js';

const tokens = (length: number, from = 0) => Int32Array.from({ length }, (_, i) => from + i);

function admitted(blocks: BlockManager, ids: Int32Array, salt = '') {
  const table = new BlockTable(salt);
  const admission = blocks.admit(table, ids, ids.length, ids.length, 0);
  if (admission === null) throw new Error('does not fit');
  return { table, admission };
}

describe('BlockManager', () => {
  it('gives back all blocks and finds their contents again, up to the last token', () => {
    const blocks = new BlockManager(8, { prefixCache: true });
    const ids = tokens(40);
    const first = admitted(blocks, ids);
    expect([...first.table.view(40)]).toEqual([0, 1, 2]);
    expect(first.admission).toEqual({ cachedTokens: 0, copy: null });
    blocks.commit(first.table, ids, 40);
    blocks.release(first.table);
    expect(blocks.free).toBe(8);
    const second = admitted(blocks, ids);
    expect(second.admission).toEqual({ cachedTokens: 32, copy: null });
    expect([...second.table.view(32)]).toEqual([0, 1]);
    blocks.check([second.table]);
  });

  it('copies the last block of a prompt that is cached whole', () => {
    const blocks = new BlockManager(4, { prefixCache: true });
    const ids = tokens(32);
    const first = admitted(blocks, ids);
    blocks.commit(first.table, ids, 32);
    const second = admitted(blocks, ids);
    expect(second.admission).toEqual({ cachedTokens: 31, copy: { from: 1, to: 2 } });
    blocks.check([first.table, second.table]);
    blocks.commit(second.table, ids, 32);
    // The copy turned out equal and was given back.
    expect([...second.table.view(32)]).toEqual([0, 1]);
    expect(blocks.free).toBe(2);
    blocks.check([first.table, second.table]);
  });

  it('recomputes the last block where there is no room to copy it', () => {
    const blocks = new BlockManager(2, { prefixCache: true });
    const ids = tokens(32);
    const first = admitted(blocks, ids);
    blocks.commit(first.table, ids, 32);
    blocks.release(first.table);
    const second = admitted(blocks, ids);
    expect(second.admission).toEqual({ cachedTokens: 16, copy: null });
    blocks.check([second.table]);
  });

  it('shares nothing between salts, and nothing when the cache is off', () => {
    const blocks = new BlockManager(8, { prefixCache: true });
    const ids = tokens(33);
    const first = admitted(blocks, ids, 'alice');
    blocks.commit(first.table, ids, 33);
    expect(blocks.countCached(ids, 33, 'alice')).toBe(2);
    expect(blocks.countCached(ids, 33, 'bob')).toBe(0);
    const off = new BlockManager(8, { prefixCache: false });
    const table = admitted(off, ids).table;
    off.commit(table, ids, 33);
    expect(off.countCached(ids, 33, '')).toBe(0);
  });

  it('compares tokens and parents, so that collisions of the hash give no wrong hit', () => {
    const blocks = new BlockManager(16, { prefixCache: true, hash: () => 7 });
    const a = tokens(48, 0);
    const b = Int32Array.from([...tokens(16, 500), ...a.subarray(16)]);
    const first = admitted(blocks, a);
    blocks.commit(first.table, a, 48);
    expect(blocks.countCached(b, 48, '')).toBe(0);
    expect(blocks.countCached(a, 48, 'other')).toBe(0);
    const second = admitted(blocks, b);
    blocks.commit(second.table, b, 48);
    expect(blocks.countCached(a, 48, '')).toBe(3);
    expect(blocks.countCached(b, 48, '')).toBe(3);
    blocks.check([first.table, second.table]);
    blocks.release(second.table);
    blocks.release(first.table);
    blocks.clearCache();
    blocks.check([]);
    expect(blocks.countCached(a, 48, '')).toBe(0);
  });

  it('evicts the least recently used leaf first', () => {
    const blocks = new BlockManager(4, { prefixCache: true });
    const [old, recent] = [tokens(32, 0), tokens(32, 100)];
    for (const ids of [old, recent]) {
      const { table } = admitted(blocks, ids);
      blocks.commit(table, ids, 32);
      blocks.release(table);
    }
    const { table } = admitted(blocks, tokens(10, 900));
    expect(blocks.countCached(old, 32, '')).toBe(1);
    expect(blocks.countCached(recent, 32, '')).toBe(2);
    blocks.check([table]);
  });

  it('answers a shortage without changing anything', () => {
    const blocks = new BlockManager(4, { prefixCache: true });
    const { table } = admitted(blocks, tokens(40));
    const other = new BlockTable();
    expect(blocks.admit(other, tokens(32, 50), 32, 32, 0)).toBeNull();
    expect(blocks.admit(other, tokens(16, 50), 16, 16, 1)).toBeNull();
    expect(blocks.grow(table, 65)).toBe(false);
    expect(blocks.free).toBe(1);
    blocks.check([table, other]);
    expect(blocks.grow(table, 64)).toBe(true);
    expect(blocks.free).toBe(0);
  });

  it('throws on a block released twice', () => {
    const blocks = new BlockManager(4, { prefixCache: false });
    const { table } = admitted(blocks, tokens(5));
    const twin = new BlockTable();
    twin.push(table.blocks[0]!);
    blocks.release(table);
    expect(() => blocks.release(twin)).toThrow(/released more often/);
  });

  it('forgets what a sequence with values that are not finite has left', () => {
    const blocks = new BlockManager(8, { prefixCache: true });
    const ids = tokens(40);
    const { table } = admitted(blocks, ids);
    blocks.commit(table, ids, 40);
    blocks.distrust(table);
    blocks.check([table]);
    blocks.release(table);
    blocks.check([]);
    expect(blocks.countCached(ids, 40, '')).toBe(0);
  });

  it('refuses a cache without blocks', () => {
    expect(() => new BlockManager(0, { prefixCache: true })).toThrow(/at least one block/);
  });
});
