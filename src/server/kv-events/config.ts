import { networkInterfaces } from 'node:os';
import { DEFAULT_HASH_SEED } from '../../engine/cache-journal.js';
import { FiligreeError } from '../../errors.js';

/** How cache events are published: vLLM's `--kv-events-config`, completed with its defaults. */
export interface KvEventsConfig {
  /** PUB socket. `*`, an address of this machine or `ipc://` is bound; any other host is a collector to connect to. */
  endpoint: string;
  /** ROUTER socket that sends missed batches again; null: none. */
  replayEndpoint: string | null;
  topic: string;
  /** Batches kept for replay. */
  bufferSteps: number;
  /** Batches that ZeroMQ holds for one slow subscriber; what comes after is lost to it. */
  hwm: number;
  /** Batches that may wait to be handed to ZeroMQ. */
  maxQueueSize: number;
  /** Events as maps with named fields, or as positional arrays as earlier releases of vLLM sent them. */
  eventFormat: 'map' | 'array';
  /** Names of blocks: the last 8 bytes as an unsigned integer, or all 32. */
  blockHashes: 'int' | 'bytes';
  /** PYTHONHASHSEED of vLLM servers beside this one, where their names of blocks must be equal to ours. */
  hashSeed: string;
}

const DEFAULT_PORT = 5557;

/**
 * @param text the JSON of `--kv-events-config`, keys as vLLM spells them
 * @param host the HTTP server's own: the events go no further than it, unless an endpoint says so
 * @returns null where the configuration turns events off
 * @throws FiligreeError usage, naming the key
 */
export function readKvEventsConfig(text: string, host: string): KvEventsConfig | null {
  const values = parse(text);
  const read = <T>(key: string, fallback: T, valid: (value: unknown) => boolean, what: string): T => {
    const value = values[key];
    delete values[key];
    if (value === undefined || value === null) return fallback;
    if (!valid(value)) throw wrong(`"${key}" must be ${what}, got ${JSON.stringify(value)}`);
    return value as T;
  };
  const count = (value: unknown) => Number.isInteger(value) && (value as number) >= 1;
  const text_ = (value: unknown) => typeof value === 'string';
  const oneOf =
    (...options: string[]) =>
    (value: unknown) =>
      options.includes(value as string);
  const address = (value: unknown) =>
    typeof value === 'string' && /^(tcp:\/\/.+:(\d{1,5}|\*)|ipc:\/\/.+)$/.test(value);
  const ADDRESS = 'tcp://host:port or ipc://path';

  const enabled = read('enable_kv_cache_events', false, (v) => typeof v === 'boolean', 'true or false');
  const publisher = read('publisher', enabled ? 'zmq' : 'null', oneOf('zmq', 'null'), '"zmq" or "null"');
  const config: KvEventsConfig = {
    endpoint: read('endpoint', `tcp://${bindHost(host)}:${DEFAULT_PORT}`, address, ADDRESS),
    replayEndpoint: read('replay_endpoint', null, address, ADDRESS),
    topic: read('topic', '', text_, 'a string'),
    bufferSteps: read('buffer_steps', 10_000, count, 'a whole number from 1 on'),
    hwm: read('hwm', 100_000, count, 'a whole number from 1 on'),
    maxQueueSize: read('max_queue_size', 100_000, count, 'a whole number from 1 on'),
    eventFormat: read('event_format', 'map', oneOf('map', 'array'), '"map" or "array"'),
    blockHashes: read('block_hashes', 'int', oneOf('int', 'bytes'), '"int" or "bytes"'),
    hashSeed: read('hash_seed', DEFAULT_HASH_SEED, text_, 'a string'),
  };
  const [unknown] = Object.keys(values);
  if (unknown !== undefined) throw wrong(`there is no key "${unknown}"`);
  return enabled && publisher === 'zmq' ? config : null;
}

function parse(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong(`not JSON (${(error as Error).message})`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong('a JSON object is wanted');
  return { ...value };
}

function wrong(what: string): FiligreeError {
  return new FiligreeError(
    'usage',
    `--kv-events-config: ${what}. Example: '{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557", "topic": "kv"}'`,
  );
}

function bindHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '*';
  return host.includes(':') ? `[${host}]` : host;
}

/** The host of a TCP endpoint, without brackets; null for `ipc://`. */
export function endpointHost(endpoint: string): string | null {
  const host = /^tcp:\/\/(.+):(?:\d+|\*)$/.exec(endpoint)?.[1];
  return host === undefined ? null : host.replace(/^\[(.*)\]$/, '$1');
}

/**
 * Whether an endpoint is ours to bind. vLLM binds `*`, `::` and ipc alone and connects to every other address, so that
 * it cannot publish on loopback; here an address of this machine is bound too.
 */
export function binds(endpoint: string): boolean {
  const host = endpointHost(endpoint);
  if (host === null || ['*', '0.0.0.0', '::', 'localhost'].includes(host)) return true;
  return Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === host));
}
