import { describe, expect, it } from 'vitest';
import { CacheJournal, type CacheOrigin } from '../../../src/engine/cache-journal.js';

/** Made with Python's cbor2 and hashlib, as vLLM's `sha256_cbor` is: sha256(dumps((parent, tokens, keys), canonical=True)). */
const FIRST = [0, 1, 23, 24, 255, 256, 65535, 65536, 128255, 2 ** 31 - 1, 100, 101, 102, 103, 104, 105];
const SECOND = Array.from({ length: 16 }, (_, i) => i);
const EXPECTED: [CacheOrigin, string[]][] = [
  [
    { salt: '' },
    [
      'ccb7a290c1125e41eb05d43583ad3d5525ebfe47b666aaf2c50a84e346440412',
      '6883053494d0fe0aa06a6c5d22a791079e386299e9fa8c5c97464e8208d701f5',
    ],
  ],
  [
    { salt: 'salz' },
    [
      '01a7d525ad374b118bbbfc485de3cb897311b0b1cbc7fd70e32839787078e9a3',
      'eb184cc7ad988e97c01be49e83b2cc431cfb3c37ed9233ad4bd7a722ac981bd9',
    ],
  ],
  [
    { adapter: 'über', salt: 's'.repeat(30) },
    [
      '68f1f5329b49c256541697657de9be82b150d8187062277c5b81a17821068bd5',
      '42c1dd614fb046ff41dd2fce5407133c4518a9b4de7d7f767d0ad14148bdb26b',
    ],
  ],
];

describe('CacheJournal', () => {
  it.each(EXPECTED)('names blocks as vLLM does: %j', (origin, names) => {
    const journal = new CacheJournal();
    const first = journal.digest(null, Int32Array.from(FIRST), origin);
    const second = journal.digest(first, Int32Array.from(SECOND), origin);
    expect([first, second].map((digest) => digest.toString('hex'))).toEqual(names);
  });

  it('chains names from another seed', () => {
    expect(new CacheJournal('0').digest(null, Int32Array.from(FIRST), { salt: '' }).toString('hex')).toBe(
      'fc2a911a052531245f27a0d7941176fbdecf2545a734fca4a77f2978ea53b604',
    );
  });

  it('joins what follows one another, keeps the order, and forgets what was taken', () => {
    const journal = new CacheJournal();
    const origin = { salt: '' };
    const tokens = Int32Array.from(SECOND);
    const [a, b, c] = ['a', 'b', 'c'].map((text) => Buffer.from(text)) as [Buffer, Buffer, Buffer];
    journal.stored(a, null, tokens, origin);
    journal.stored(b, a, tokens, origin);
    journal.removed(b);
    journal.removed(a);
    journal.stored(c, null, tokens, origin);
    expect(journal.take()).toEqual([
      { type: 'stored', digests: [a, b], parent: null, tokens: [...SECOND, ...SECOND], origin },
      { type: 'removed', digests: [b, a] },
      { type: 'stored', digests: [c], parent: null, tokens: SECOND, origin },
    ]);
    expect(journal.take()).toEqual([]);
  });
});
