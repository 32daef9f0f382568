import { createHash } from 'node:crypto';
import { BLOCK_SIZE } from './model-runner.js';

/**
 * What the prefix cache came to hold and what it let go of, for those outside who route by it.
 *
 * A block is known outside by a digest of its content: SHA-256 over the canonical CBOR of (digest of the block before
 * it, its tokens, what else sets it apart), which is vLLM's `sha256_cbor`. Two servers therefore give the same content
 * the same name. It costs one hash of about 100 bytes per block that becomes cached (some 2 µs), and is only computed
 * where a journal is kept; inside, the cache goes by its own cheaper hash.
 */

/** What sets blocks of the same tokens apart. */
export interface CacheOrigin {
  /** The caller's `cache_salt`; '' without one. */
  salt: string;
  /** LoRA adapter that computed the keys and values, by name. */
  adapter?: string | undefined;
}

export const NO_ORIGIN: CacheOrigin = { salt: '' };

/** Blocks that lie one behind the other in one sequence. */
export interface BlocksStored {
  type: 'stored';
  digests: Buffer[];
  /** Digest of the block before the first of them; null at the start of a sequence. */
  parent: Buffer | null;
  /** BLOCK_SIZE for each digest. */
  tokens: number[];
  origin: CacheOrigin;
}

export interface BlocksRemoved {
  type: 'removed';
  digests: Buffer[];
}

export type CacheEvent = BlocksStored | BlocksRemoved;

/** What vLLM's cryptographic hashes start from where PYTHONHASHSEED is not set. */
export const DEFAULT_HASH_SEED = 'vllm-none-hash';

/** Room for the longest encoding of a parent and 16 tokens, before the keys. */
const FIXED_BYTES = 3 + 32 + 1 + BLOCK_SIZE * 5;

export class CacheJournal {
  private events: CacheEvent[] = [];
  private readonly start: Buffer;

  /** @param seed what the digest of a sequence's first block is chained to */
  constructor(seed: string = DEFAULT_HASH_SEED) {
    this.start = sha256(cborText(seed));
  }

  /** Name of a block of BLOCK_SIZE tokens that follows the block named `parent`. */
  digest(parent: Buffer | null, tokens: Int32Array, origin: CacheOrigin): Buffer {
    const keys = extraKeys(origin, parent === null);
    const bytes = Buffer.allocUnsafe(FIXED_BYTES);
    let at = bytes.writeUInt8(0x83, 0);
    at = bytes.writeUInt16BE(0x5820, at);
    at += (parent ?? this.start).copy(bytes, at);
    at = bytes.writeUInt8(0x80 + BLOCK_SIZE, at);
    for (const token of tokens) at = writeUnsigned(bytes, at, token);
    const head = bytes.subarray(0, at);
    if (keys === null) return sha256(head, Buffer.of(0xf6));
    return sha256(head, Buffer.of(0x80 + keys.length), ...keys.map(cborText));
  }

  stored(digest: Buffer, parent: Buffer | null, tokens: Int32Array, origin: CacheOrigin): void {
    const last = this.events.at(-1);
    if (last?.type === 'stored' && parent !== null && last.digests.at(-1) === parent) {
      last.digests.push(digest);
      last.tokens.push(...tokens);
    } else this.events.push({ type: 'stored', digests: [digest], parent, tokens: [...tokens], origin });
  }

  removed(digest: Buffer): void {
    const last = this.events.at(-1);
    if (last?.type === 'removed') last.digests.push(digest);
    else this.events.push({ type: 'removed', digests: [digest] });
  }

  /** What happened since the last call, in order. */
  take(): CacheEvent[] {
    if (this.events.length === 0) return this.events;
    const events = this.events;
    this.events = [];
    return events;
  }
}

/** vLLM's extra keys of a block: the adapter on every block, the salt on the first. Null: none. */
export function extraKeys(origin: CacheOrigin, first: boolean): string[] | null {
  const keys: string[] = [];
  if (origin.adapter !== undefined) keys.push(origin.adapter);
  if (first && origin.salt !== '') keys.push(origin.salt);
  return keys.length > 0 ? keys : null;
}

function sha256(...parts: Buffer[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function cborText(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  const header = Buffer.alloc(5);
  const length = writeUnsigned(header, 0, bytes.length);
  // Major type 3 instead of 0.
  header[0] = (header[0] as number) | 0x60;
  return Buffer.concat([header.subarray(0, length), bytes]);
}

/** Shortest CBOR of an unsigned integer below 2^32; returns where it ends. */
function writeUnsigned(bytes: Buffer, at: number, value: number): number {
  if (value < 24) return bytes.writeUInt8(value, at);
  if (value < 0x100) return bytes.writeUInt8(value, bytes.writeUInt8(0x18, at));
  if (value < 0x10000) return bytes.writeUInt16BE(value, bytes.writeUInt8(0x19, at));
  return bytes.writeUInt32BE(value, bytes.writeUInt8(0x1a, at));
}
