import type { Publisher, Router } from 'zeromq';
import type { CacheEvent } from '../../engine/cache-journal.js';
import { FiligreeError } from '../../errors.js';
import { binds, endpointHost, type KvEventsConfig } from './config.js';
import { ReplayBuffer } from './replay-buffer.js';
import { encodeBatch, encodeCleared } from './wire.js';

/** Where the events can be had, as `GET /kv_event_sources` says it. */
export interface KvEventSource {
  endpoint: string;
  replay_endpoint: string | null;
  topic: string;
  hwm: number;
  buffer_steps: number;
  publisher: 'zmq';
  enable_kv_cache_events: true;
  encoding: 'msgpack';
  /** Of the events: 1 has named fields; 0, positional ones, is our own name for what came before. */
  schema_version: 0 | 1;
}

interface Log {
  warn(details: object, message: string): void;
}

/** Replay keeps at most so much, however many batches it may keep. */
const REPLAY_BYTES = 64 << 20;
/** A request for replay is an identity, an empty frame and 8 bytes. */
const LONGEST_REQUEST = 1024;
/** Messages sent in one turn of the event loop: a long replay must not hold up the answers. */
const MESSAGES_A_TURN = 32;
/** How long the last batches may take to leave when the server stops, in milliseconds. */
const LINGER_MS = 200;
const END = Buffer.alloc(8, 0xff);
const NOTHING = Buffer.alloc(0);

/**
 * Publishes what the prefix cache holds, in vLLM's form: PUB messages of (topic, sequence number as 8 bytes
 * big-endian, batch), and a ROUTER that answers a sequence number with all kept batches from it on and an end marker.
 *
 * Nothing here can hold up a step. `publish` encodes (some 20 µs for a prefill of 512 tokens), numbers and queues;
 * ZeroMQ's own thread writes to the sockets, and drops what a slow subscriber cannot take. A batch that is dropped,
 * there or because the queue is full, leaves a gap in the numbers and can be had from the replay socket as long as it
 * is kept.
 */
export class KvEventPublisher {
  private readonly buffer: ReplayBuffer;
  private readonly topic: Buffer;
  private queue: [number, Buffer][] = [];
  private pumping: Promise<void> | null = null;
  private replaying: Promise<void> | null = null;
  private overflowing = false;
  private closed = false;
  /** Batches that were dropped before ZeroMQ had them. */
  unsent = 0;

  private constructor(
    readonly config: KvEventsConfig,
    private readonly sockets: { publisher: Publisher; router: Router | null },
    private readonly log: Log,
  ) {
    this.buffer = new ReplayBuffer(config.bufferSteps, REPLAY_BYTES);
    this.topic = Buffer.from(config.topic);
    this.send(encodeCleared(config, Date.now() / 1000));
    if (sockets.router !== null) this.replaying = this.serveReplay(sockets.router);
  }

  /**
   * Opens the sockets.
   * @throws FiligreeError native_unavailable without ZeroMQ, address_in_use
   */
  static async open(config: KvEventsConfig, log: Log): Promise<KvEventPublisher> {
    const zmq = await import('zeromq').catch((cause: unknown) => {
      throw new FiligreeError(
        'native_unavailable',
        'KV events need ZeroMQ, which could not be installed beside filigree. Run "npm install zeromq", or leave out --kv-events-config.',
        { cause },
      );
    });
    const publisher = new zmq.Publisher({ sendHighWaterMark: config.hwm, linger: LINGER_MS });
    // A whole replay fits: what a client does not read beyond that is dropped, so that none can hold up another.
    const router =
      config.replayEndpoint === null
        ? null
        : new zmq.Router({
            sendHighWaterMark: config.bufferSteps + 1,
            maxMessageSize: LONGEST_REQUEST,
            linger: 0,
          });
    try {
      await attach(publisher, config.endpoint);
      if (router !== null) await bind(router, config.replayEndpoint as string);
    } catch (error) {
      publisher.close();
      router?.close();
      throw error;
    }
    return new KvEventPublisher(config, { publisher, router }, log);
  }

  /** Where the events can be had by a caller who reaches this machine as `host`. */
  source(host: string): KvEventSource {
    const { publisher, router } = this.sockets;
    return {
      endpoint: reachable(publisher.lastEndpoint ?? this.config.endpoint, host),
      replay_endpoint: router === null ? null : reachable(router.lastEndpoint ?? '', host),
      topic: this.config.topic,
      hwm: this.config.hwm,
      buffer_steps: this.config.bufferSteps,
      publisher: 'zmq',
      enable_kv_cache_events: true,
      encoding: 'msgpack',
      schema_version: this.config.eventFormat === 'map' ? 1 : 0,
    };
  }

  /** Batches so far, the unsent ones included. */
  get published(): number {
    return this.buffer.next;
  }

  publish(events: readonly CacheEvent[]): void {
    if (!this.closed) this.send(encodeBatch(events, this.config, Date.now() / 1000));
  }

  /** Sends what is queued, then closes the sockets. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.pumping;
    this.sockets.publisher.close();
    this.sockets.router?.close();
    await this.replaying;
  }

  private send(batch: Buffer): void {
    const sequence = this.buffer.add(batch);
    this.queue.push([sequence, batch]);
    if (this.queue.length > this.config.maxQueueSize) {
      this.queue.shift();
      this.unsent++;
      if (!this.overflowing)
        this.log.warn({ sequence }, 'KV events come faster than they leave: some can only be had by replay');
      this.overflowing = true;
    }
    this.pumping ??= this.pump().finally(() => {
      this.pumping = null;
    });
  }

  private async pump(): Promise<void> {
    const { publisher } = this.sockets;
    while (this.queue.length > 0) {
      const batches = this.queue.splice(0, MESSAGES_A_TURN);
      for (const [sequence, batch] of batches) {
        try {
          await publisher.send([this.topic, sequenceBytes(sequence), batch]);
        } catch (error) {
          this.unsent++;
          this.log.warn({ err: error, sequence }, 'a batch of KV events could not be sent');
        }
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.overflowing = false;
  }

  private async serveReplay(router: Router): Promise<void> {
    while (!this.closed) {
      try {
        const frames = await router.receive();
        await this.replay(router, frames);
      } catch (error) {
        if (!this.closed) this.log.warn({ err: error }, 'a replay of KV events failed');
      }
    }
  }

  private async replay(router: Router, frames: Buffer[]): Promise<void> {
    const [client, delimiter, start] = frames;
    if (!client || delimiter?.length !== 0 || start?.length !== 8 || frames.length !== 3) {
      this.log.warn({ frames: frames.length }, 'a replay of KV events was asked for in a wrong form');
      return;
    }
    // Earlier releases of vLLM, which sent arrays, answered without the topic.
    const topic = (bytes: Buffer) => (this.config.eventFormat === 'array' ? [] : [bytes]);
    let sent = 0;
    const from = Number(start.readBigUInt64BE());
    for (const [sequence, batch] of this.buffer.from(from)) {
      await router.send([client, NOTHING, ...topic(this.topic), sequenceBytes(sequence), batch]);
      if (++sent % MESSAGES_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await router.send([client, NOTHING, ...topic(NOTHING), END, NOTHING]);
  }
}

function sequenceBytes(sequence: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(sequence));
  return bytes;
}

async function attach(socket: Publisher, endpoint: string): Promise<void> {
  if (binds(endpoint)) await bind(socket, endpoint);
  else socket.connect(endpoint);
}

async function bind(socket: Publisher | Router, endpoint: string): Promise<void> {
  try {
    // ZeroMQ binds interfaces and addresses, not this name.
    await socket.bind(endpoint.replace('//localhost:', '//127.0.0.1:'));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = code === 'EADDRINUSE' ? 'is taken by another program' : `cannot be bound (${message})`;
    throw new FiligreeError('address_in_use', `--kv-events-config: ${endpoint} ${why}.`, { cause });
  }
}

/** An endpoint as bound, with the caller's name for this machine where it is bound to all of its addresses. */
function reachable(endpoint: string, host: string): string {
  const bound = endpointHost(endpoint);
  if (bound !== '*' && bound !== '0.0.0.0' && bound !== '::') return endpoint;
  const port = endpoint.slice(endpoint.lastIndexOf(':'));
  return `tcp://${host.includes(':') && !host.startsWith('[') ? `[${host}]` : host}${port}`;
}
