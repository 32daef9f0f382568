import { BLOCK_SIZE } from './model-runner.js';

/** Hash of the block `tokens[offset .. offset + 16)` after a prefix of the hash `parent`. */
export type BlockHash = (parent: number, tokens: Int32Array, offset: number) => number;

/** What the first block of a caller's prefixes is chained to. */
export function saltHash(salt: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < salt.length; i++) hash = Math.imul(hash ^ salt.charCodeAt(i), 0x01000193);
  return hash;
}

/** Murmur3 rounds over 16 tokens, seeded per process so that nobody can prepare prompts that collide. */
export function seededHash(): BlockHash {
  const seed = (Math.random() * 2 ** 32) | 0;
  return (parent, tokens, offset) => {
    let hash = parent ^ seed;
    for (let i = 0; i < BLOCK_SIZE; i++) {
      let k = Math.imul(tokens[offset + i] as number, 0xcc9e2d51);
      k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
      hash ^= k;
      hash = (Math.imul((hash << 13) | (hash >>> 19), 5) + 0xe6546b64) | 0;
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return hash ^ (hash >>> 16);
  };
}
