import type { EngineOptions } from '../engine/engine.js';
import { FiligreeError } from '../errors.js';
import { readKvEventsConfig } from '../server/kv-events/config.js';
import type { KvEventPublisher } from '../server/kv-events/publisher.js';

/**
 * The sockets of `--kv-events-config`, opened before minutes of loading rather than after; undefined where events are
 * not asked for.
 * @throws FiligreeError usage, address_in_use, native_unavailable
 */
export async function openKvEvents(
  options: { kvEventsConfig?: string; prefixCache: boolean; host: string },
  log: { warn(details: object, message: string): void },
): Promise<KvEventPublisher | undefined> {
  if (options.kvEventsConfig === undefined) return undefined;
  const config = readKvEventsConfig(options.kvEventsConfig, options.host);
  if (config === null) return undefined;
  if (!options.prefixCache)
    throw new FiligreeError(
      'usage',
      '--kv-events-config tells what the prefix cache holds, and --no-prefix-cache turns it off. Leave one of them out.',
    );
  const { KvEventPublisher } = await import('../server/kv-events/publisher.js');
  return KvEventPublisher.open(config, log);
}

/** What the engine needs to know for it. */
export const cacheEventOptions = (
  publisher: KvEventPublisher | undefined,
): Pick<EngineOptions, 'cacheEventSeed'> =>
  publisher === undefined ? {} : { cacheEventSeed: publisher.config.hashSeed };
