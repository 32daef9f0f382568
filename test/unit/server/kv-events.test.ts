import { decode } from '@msgpack/msgpack';
import { afterEach, describe, expect, it } from 'vitest';
import { Dealer, Subscriber } from 'zeromq';
import { openKvEvents } from '../../../src/cli/kv-events.js';
import type { CacheEvent } from '../../../src/engine/cache-journal.js';
import { binds, readKvEventsConfig } from '../../../src/server/kv-events/config.js';
import { KvEventPublisher } from '../../../src/server/kv-events/publisher.js';
import { ReplayBuffer } from '../../../src/server/kv-events/replay-buffer.js';
import { encodeBatch } from '../../../src/server/kv-events/wire.js';
import { byteId, type Fixture, type Json, says, serve } from './fixture.js';

const config = (fields: object = {}) =>
  readKvEventsConfig(
    JSON.stringify({
      enable_kv_cache_events: true,
      endpoint: 'tcp://127.0.0.1:*',
      replay_endpoint: 'tcp://127.0.0.1:*',
      topic: 'kv',
      ...fields,
    }),
    '127.0.0.1',
  ) as NonNullable<ReturnType<typeof readKvEventsConfig>>;

const quiet = { warn() {} };
const unpack = (bytes: Uint8Array) => decode(bytes, { useBigInt64: true }) as Json;
const digest = (byte: number) => Buffer.alloc(32, byte);
const stored = (byte: number, origin = { salt: '' }): CacheEvent => ({
  type: 'stored',
  digests: [digest(byte), digest(byte + 1)],
  parent: null,
  tokens: Array.from({ length: 32 }, (_, i) => i),
  origin,
});
const removed: CacheEvent = { type: 'removed', digests: [digest(7)] };

describe('--kv-events-config', () => {
  it("takes vLLM's keys and defaults, and stays on the server's own address unless told otherwise", () => {
    expect(readKvEventsConfig('{"enable_kv_cache_events": true}', '127.0.0.1')).toEqual({
      endpoint: 'tcp://127.0.0.1:5557',
      replayEndpoint: null,
      topic: '',
      bufferSteps: 10_000,
      hwm: 100_000,
      maxQueueSize: 100_000,
      eventFormat: 'map',
      blockHashes: 'int',
      hashSeed: 'vllm-none-hash',
    });
    const endpoint = (host: string) => readKvEventsConfig('{"enable_kv_cache_events": true}', host)?.endpoint;
    expect(endpoint('0.0.0.0')).toBe('tcp://*:5557');
    expect(endpoint('::1')).toBe('tcp://[::1]:5557');
    expect(readKvEventsConfig('{"publisher": "zmq"}', '127.0.0.1')).toBeNull();
    expect(
      readKvEventsConfig('{"enable_kv_cache_events": true, "publisher": "null"}', '127.0.0.1'),
    ).toBeNull();
  });

  it.each([
    ['{', 'not JSON'],
    ['[]', 'a JSON object is wanted'],
    ['{"enable_kv_cache_events": 1}', '"enable_kv_cache_events" must be true or false, got 1'],
    ['{"endpoint": "127.0.0.1:5557"}', '"endpoint" must be tcp://host:port or ipc://path'],
    ['{"replay_endpoint": "tcp://*"}', '"replay_endpoint" must be tcp://host:port'],
    ['{"buffer_steps": 0}', '"buffer_steps" must be a whole number from 1 on, got 0'],
    ['{"event_format": "xml"}', '"event_format" must be "map" or "array"'],
    ['{"publisher": "kafka"}', '"publisher" must be "zmq" or "null"'],
    ['{"enpoint": "tcp://*:1"}', 'there is no key "enpoint"'],
  ])('refuses %s', (text, message) => {
    expect(() => readKvEventsConfig(text, '127.0.0.1')).toThrow(message);
  });

  it('binds what is ours and connects to what is not', () => {
    for (const own of ['tcp://*:1', 'tcp://127.0.0.1:1', 'tcp://localhost:1', 'tcp://[::1]:1', 'ipc:///x'])
      expect(binds(own)).toBe(true);
    expect(binds('tcp://collector.example:5557')).toBe(false);
    expect(binds('tcp://192.0.2.1:5557')).toBe(false);
  });

  it('refuses events of a cache that is off, and an address that is taken', async () => {
    const options = { kvEventsConfig: '{"enable_kv_cache_events": true}', host: '127.0.0.1' };
    await expect(openKvEvents({ ...options, prefixCache: false }, quiet)).rejects.toThrow(
      '--no-prefix-cache turns it off',
    );
    const first = await KvEventPublisher.open(config(), quiet);
    const { endpoint } = first.source('127.0.0.1');
    await expect(KvEventPublisher.open(config({ endpoint }), quiet)).rejects.toMatchObject({
      code: 'address_in_use',
      message: `--kv-events-config: ${endpoint} is taken by another program.`,
    });
    await first.close();
  });
});

describe('batches of KV events', () => {
  it('are maps of named fields with 8-byte names', () => {
    const batch = unpack(encodeBatch([stored(1), removed], config(), 12.5));
    expect(batch).toEqual([
      12.5,
      [
        {
          type: 'BlockStored',
          block_hashes: [0x0101010101010101n, 0x0202020202020202n],
          parent_block_hash: null,
          token_ids: Array.from({ length: 32 }, (_, i) => i),
          block_size: 16,
          lora_id: null,
          medium: 'GPU',
          lora_name: null,
          group_idx: 0,
          kv_cache_spec_kind: 'full_attention',
        },
        { type: 'BlockRemoved', block_hashes: [0x0707070707070707n], medium: 'GPU', group_idx: 0 },
      ],
      0,
    ]);
  });

  it('are positional arrays with 32-byte names where that is asked for', () => {
    const form = config({ event_format: 'array', block_hashes: 'bytes' });
    const [, events] = unpack(encodeBatch([stored(1), removed], form, 1.5));
    expect(events).toEqual([
      [
        'BlockStored',
        [digest(1), digest(2)],
        null,
        Array.from({ length: 32 }, (_, i) => i),
        16,
        null,
        'GPU',
        null,
      ],
      ['BlockRemoved', [digest(7)], 'GPU'],
    ]);
  });

  it('tell what sets blocks apart: the adapter on all, the salt on the first', () => {
    const [, [event]] = unpack(encodeBatch([stored(1, { salt: 's' })], config(), 1.5));
    expect(event.extra_keys).toEqual([['s'], null]);
    const [, [adapted]] = unpack(
      encodeBatch([stored(1, { salt: 's', adapter: 'a' } as { salt: string })], config(), 1.5),
    );
    expect(adapted).toMatchObject({ lora_name: 'a', extra_keys: [['a', 's'], ['a']] });
  });
});

describe('ReplayBuffer', () => {
  it('keeps the last batches by number and by bytes, and at least one', () => {
    const buffer = new ReplayBuffer(3, 100);
    for (let i = 0; i < 5; i++) expect(buffer.add(Buffer.alloc(10, i))).toBe(i);
    expect(buffer.from(0).map(([sequence]) => sequence)).toEqual([2, 3, 4]);
    expect(buffer.from(4).map(([, batch]) => batch[0])).toEqual([4]);
    expect(buffer.from(5)).toEqual([]);
    buffer.add(Buffer.alloc(85));
    expect(buffer.from(0).map(([sequence]) => sequence)).toEqual([4, 5]);
    buffer.add(Buffer.alloc(500));
    expect(buffer.from(0).map(([sequence]) => sequence)).toEqual([6]);
    expect(buffer.next).toBe(7);
  });
});

describe('KvEventPublisher', () => {
  let publisher: KvEventPublisher | undefined;
  const sockets: { close(): void }[] = [];
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.close();
    await publisher?.close();
  });

  async function open(fields: object = {}, topic = 'kv') {
    publisher = await KvEventPublisher.open(config(fields), quiet);
    const { endpoint, replay_endpoint } = publisher.source('127.0.0.1');
    const subscriber = new Subscriber({ receiveTimeout: 2000 });
    subscriber.connect(endpoint);
    subscriber.subscribe(topic);
    const dealer = new Dealer({ receiveTimeout: 2000 });
    dealer.connect(replay_endpoint as string);
    sockets.push(subscriber, dealer);
    return { publisher, subscriber, dealer };
  }

  const bytes = (sequence: bigint) => {
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64BE(sequence);
    return buffer;
  };
  /** Every batch kept from `start` on, as [topic, sequence, batch]. */
  async function replay(dealer: Dealer, start: bigint) {
    await dealer.send([Buffer.alloc(0), bytes(start)]);
    const batches: [string, bigint, Json][] = [];
    for (;;) {
      const [empty, topic, sequence, batch] = (await dealer.receive()) as [Buffer, Buffer, Buffer, Buffer];
      expect(empty.length).toBe(0);
      if (sequence.readBigInt64BE() === -1n) return batches;
      batches.push([topic.toString(), sequence.readBigUInt64BE(), unpack(batch)]);
    }
  }

  it('publishes topic, number and batch; what a subscriber missed is replayed from the start', async () => {
    const { publisher, subscriber, dealer } = await open();
    // A subscriber is connected a moment after it asked: until then it misses what it can have replayed.
    let next = 1n;
    const received = subscriber.receive();
    const timer = setInterval(() => publisher.publish([stored(Number(next++ % 100n))]), 5);
    const [topic, sequence, batch] = (await received) as [Buffer, Buffer, Buffer];
    clearInterval(timer);
    expect(topic.toString()).toBe('kv');
    expect(sequence.length).toBe(8);
    expect(unpack(batch)[1]).toHaveLength(1);
    const all = await replay(dealer, 0n);
    expect(all.map(([, each]) => each)).toEqual(all.map((_, i) => BigInt(i)));
    expect(BigInt(all.length)).toBe(next);
    expect(all[0]?.[2][1]).toEqual([{ type: 'AllBlocksCleared' }]);
    expect(all.every(([name]) => name === 'kv')).toBe(true);
    expect(await replay(dealer, next)).toEqual([]);
    expect(await replay(dealer, next - 1n)).toHaveLength(1);
  });

  it('never waits for a subscriber, keeps a bounded number, and numbers on', async () => {
    const { publisher, dealer } = await open({ buffer_steps: 50, max_queue_size: 20, hwm: 1 });
    const started = performance.now();
    for (let i = 0; i < 2000; i++) publisher.publish([removed]);
    // 2,000 batches are queued in one turn of the event loop, in which nothing can have left.
    expect(performance.now() - started).toBeLessThan(1000);
    expect(publisher.published).toBe(2001);
    // All but the 20 that wait and the one or two that ZeroMQ was given before.
    expect(publisher.unsent).toBeGreaterThanOrEqual(2001 - 22);
    expect(publisher.unsent).toBeLessThanOrEqual(2001 - 20);
    const kept = await replay(dealer, 0n);
    expect(kept.map(([, sequence]) => Number(sequence))).toEqual(
      Array.from({ length: 50 }, (_, i) => 1951 + i),
    );
  });

  it('outlives requests for replay that are no such thing', async () => {
    const { dealer } = await open();
    for (const frames of [['x'], [Buffer.alloc(0), 'abc'], [Buffer.alloc(0), bytes(0n), 'more']])
      await dealer.send(frames);
    await dealer.send([Buffer.alloc(0), Buffer.alloc(8, 0xff)]);
    const [, , sequence] = (await dealer.receive()) as Buffer[];
    expect(sequence?.readBigInt64BE()).toBe(-1n);
    expect(await replay(dealer, 0n)).toHaveLength(1);
  });

  it('answers replay without the topic in the earlier form', async () => {
    const { dealer } = await open({ event_format: 'array' });
    await dealer.send([Buffer.alloc(0), bytes(0n)]);
    const frames = (await dealer.receive()) as Buffer[];
    expect(frames).toHaveLength(3);
    expect(unpack(frames[2] as Buffer)[1]).toEqual([['AllBlocksCleared']]);
  });
});

describe('what routers ask a server', () => {
  let fixture: Fixture;
  afterEach(() => fixture.close());

  it('tells where the events are, under the name that the caller has for this machine', async () => {
    fixture = await serve(says('x'));
    expect((await fixture.app.inject({ url: '/kv_event_sources' })).json()).toEqual({});
    const publisher = await KvEventPublisher.open(
      config({ endpoint: 'tcp://*:*', replay_endpoint: null }),
      quiet,
    );
    const other = await serve(says('x'), { kvEvents: publisher });
    const sources = async (host: string) =>
      (await other.app.inject({ url: '/kv_event_sources', headers: { host } })).json();
    try {
      expect(await sources('worker.example:8000')).toEqual({
        0: {
          endpoint: expect.stringMatching(/^tcp:\/\/worker\.example:\d+$/),
          replay_endpoint: null,
          topic: 'kv',
          hwm: 100_000,
          buffer_steps: 10_000,
          publisher: 'zmq',
          enable_kv_cache_events: true,
          encoding: 'msgpack',
          schema_version: 1,
        },
      });
      const metrics = (await other.app.inject({ url: '/metrics' })).body;
      expect(metrics).toMatch(/^filigree_kv_event_batches_total\{.*\} 1$/m);
      expect(metrics).toMatch(/^filigree_kv_event_batches_unsent_total\{.*\} 0$/m);
      expect((await sources('[::1]:8000'))[0].endpoint).toMatch(/^tcp:\/\/\[::1\]:\d+$/);
    } finally {
      await publisher.close();
      await other.close();
    }
  });

  it('tells what it serves', async () => {
    fixture = await serve(says('x'));
    for (const url of ['/get_server_info', '/server_info'])
      expect((await fixture.app.inject({ url })).json()).toMatchObject({
        model_id: 'test-model',
        kv_block_size: 16,
        max_model_len: fixture.engine.info.maxModelLen,
        num_gpu_blocks: fixture.engine.info.numBlocks,
      });
  });

  it('publishes what a request left in the cache', async () => {
    fixture = await serve(says('y'), { engine: { cacheEventSeed: 'seed' } });
    const events: CacheEvent[] = [];
    fixture.engine.on('cache', (batch) => events.push(...batch));
    const prompt = 'a prompt of thirty-three letters.';
    await fixture.post('/v1/completions', { prompt, max_tokens: 1, cache_salt: 'mine' });
    expect(events).toEqual([
      {
        type: 'stored',
        digests: [expect.any(Buffer), expect.any(Buffer)],
        parent: null,
        tokens: [...Buffer.from(prompt).subarray(0, 32)].map(byteId),
        origin: { salt: 'mine' },
      },
    ]);
  });
});
