import { Encoder } from '@msgpack/msgpack';
import { type BlocksStored, type CacheEvent, extraKeys } from '../../engine/cache-journal.js';
import { BLOCK_SIZE } from '../../engine/model-runner.js';
import type { KvEventsConfig } from './config.js';

/**
 * The bytes of one batch, as vLLM's `vllm/distributed/kv_events.py` defines them in msgpack: an array
 * `[seconds, events, data_parallel_rank]`. An event is a map of named fields with its class under `type`, or, as
 * earlier releases of vLLM sent it, an array `[class, field, …]`.
 *
 * `medium` is `GPU` in both: the name of the memory that attention reads directly, as against one that blocks must
 * first be fetched from. Here that is the machine's own memory, but a consumer weighs the tiers by this name.
 */
export type WireForm = Pick<KvEventsConfig, 'eventFormat' | 'blockHashes'>;

const MEDIUM = 'GPU';
/** The named fields tell which group of layers a block belongs to, and of what kind: here all layers, all alike. */
const GROUP = 0;
const KIND = 'full_attention';
/** We are one engine, and the first. */
const RANK = 0;

const encoder = new Encoder({ useBigInt64: true });

export function encodeBatch(events: readonly CacheEvent[], form: WireForm, seconds: number): Buffer {
  const encoded = encoder.encode([seconds, events.map((event) => eventOf(event, form)), RANK]);
  return Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
}

/** The batch that a server begins with: whatever a subscriber believed of this address holds no longer. */
export function encodeCleared(form: WireForm, seconds: number): Buffer {
  const event = form.eventFormat === 'array' ? ['AllBlocksCleared'] : { type: 'AllBlocksCleared' };
  const encoded = encoder.encode([seconds, [event], RANK]);
  return Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
}

function eventOf(event: CacheEvent, form: WireForm): unknown {
  const hashes = event.digests.map((digest) => hashOf(digest, form));
  if (event.type === 'removed') {
    if (form.eventFormat === 'array') return ['BlockRemoved', hashes, MEDIUM];
    return { type: 'BlockRemoved', block_hashes: hashes, medium: MEDIUM, group_idx: GROUP };
  }
  const fields: [string, unknown][] = [
    ['block_hashes', hashes],
    ['parent_block_hash', event.parent === null ? null : hashOf(event.parent, form)],
    ['token_ids', event.tokens],
    ['block_size', BLOCK_SIZE],
    // Adapters have names here, no numbers.
    ['lora_id', null],
    ['medium', MEDIUM],
    ['lora_name', event.origin.adapter ?? null],
  ];
  const keys = keysOf(event);
  if (keys.some((each) => each !== null)) fields.push(['extra_keys', keys]);
  if (form.eventFormat === 'array') return ['BlockStored', ...fields.map(([, value]) => value)];
  fields.push(['group_idx', GROUP], ['kv_cache_spec_kind', KIND]);
  return Object.fromEntries([['type', 'BlockStored'], ...fields]);
}

const hashOf = (digest: Buffer, form: WireForm): Buffer | bigint =>
  form.blockHashes === 'bytes' ? digest : digest.readBigUInt64BE(digest.length - 8);

const keysOf = (event: BlocksStored): (string[] | null)[] =>
  event.digests.map((_, i) => extraKeys(event.origin, event.parent === null && i === 0));
