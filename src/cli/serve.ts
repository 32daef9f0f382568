import { createServer } from 'node:net';
import { basename } from 'node:path';
import { packageVersion } from '../config.js';
import { Engine, type EngineOptions } from '../engine/engine.js';
import { FiligreeError } from '../errors.js';
import type { App } from '../server/app.js';
import { Lifecycle } from '../server/lifecycle.js';
import type { Service } from '../server/service.js';
import { cacheEventOptions, openKvEvents } from './kv-events.js';
import { loadModel } from './load.js';
import { makeLogger } from './log.js';
import type { ModelOptions } from './options.js';
import { zeroPicture } from './picture.js';

export interface ServeOptions extends ModelOptions {
  host: string;
  port: number;
  apiKey?: string[];
  protectAll?: boolean;
  servedModelName?: string[];
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  prefixCache: boolean;
  generationConfig: 'auto' | 'none';
  compare?: boolean;
  queue: number;
  queueTokens?: number;
  drainTimeout: number;
  cors?: string[];
  rateLimit?: number;
  logLevel: string;
  kvEventsConfig?: string;
  json?: boolean;
}

/** A step that takes longer than this has hung: `/health` fails. */
const WATCHDOG_MS = 300_000;
/** How long broken-off answers may take to tell their clients so. */
const FAREWELL_MS = 1000;

function addressError(error: NodeJS.ErrnoException, host: string, port: number): Error {
  const where = `${host}:${port}`;
  switch (error.code) {
    case 'EADDRINUSE':
      return new FiligreeError(
        'address_in_use',
        `${where} is taken by another program. Take another --port, or 0 for a free one.`,
      );
    case 'EACCES':
      return new FiligreeError('address_in_use', `${where} needs privileges. Take a --port from 1024 on.`);
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new FiligreeError('address_in_use', `${where} is no address of this machine. Check --host.`);
    default:
      return error;
  }
}

/** Finds out before minutes of loading, not after, that the address cannot be had. */
async function checkAddress(host: string, port: number): Promise<void> {
  const probe = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      probe.once('error', reject);
      probe.listen({ host, port, exclusive: true }, resolve);
    });
  } catch (error) {
    throw addressError(error as NodeJS.ErrnoException, host, port);
  } finally {
    await new Promise((resolve) => probe.close(resolve));
  }
}

/** `filigree serve`: resolves when the server listens; signals end the process. */
export async function serveCommand(model: string | undefined, options: ServeOptions): Promise<void> {
  const started = performance.now();
  // Fastify would listen twice on `localhost`, once for each family.
  const host = options.host === 'localhost' ? '127.0.0.1' : options.host;
  await checkAddress(host, options.port);
  const log = makeLogger(options.logLevel);
  const kvEvents = await openKvEvents({ ...options, host }, log);
  // The server's libraries load while the weights do.
  const [loaded, { buildApp }, { NativeGrammars }, { tokenTable }] = await Promise.all([
    loadModel(model, options, options),
    import('../server/app.js'),
    import('../native/index.js'),
    import('../grammar/token-table.js'),
  ]);
  const { manifest, runner, tokenizer, template, eosTokenIds } = loaded;
  const { info } = runner;
  const engineOptions: EngineOptions = {
    maxNumSeqs: options.maxNumSeqs,
    maxNumBatchedTokens: options.maxNumBatchedTokens,
    prefixCache: options.prefixCache,
    queueLimit: options.queue,
    queueTokenLimit: options.queueTokens ?? options.queue * info.maxModelLen,
    watchdogMs: WATCHDOG_MS,
  };
  const engine = new Engine(runner, { ...engineOptions, ...cacheEventOptions(kvEvents) });
  engine.on('cache', (events) => kvEvents?.publish(events));
  const names = options.servedModelName?.length ? options.servedModelName : [manifest.name];
  const clash = loaded.adapters.find(({ name }) => names.includes(name));
  if (clash !== undefined) {
    await engine.close();
    throw new FiligreeError(
      'usage',
      `--lora ${clash.name}: the model itself is called so. Give the adapter another name.`,
    );
  }
  const service: Service = {
    engine,
    lifecycle: new Lifecycle(engine.maxNumSeqs + options.queue),
    prefixCache: options.prefixCache,
    kvEvents,
    version: packageVersion(),
    model: {
      names: names as [string, ...string[]],
      tokenizer,
      template,
      eosTokenIds,
      ...(options.generationConfig === 'auto' && { generation: manifest.generation }),
      grammars: new NativeGrammars(() => tokenTable(tokenizer, info.vocabSize, eosTokenIds)),
      architecture: manifest.config.architecture,
      picture: zeroPicture(manifest),
      created: Math.floor(Date.now() / 1000),
    },
    adapters: new Map(loaded.adapters.map(({ name, path, rank }) => [name, { root: basename(path), rank }])),
  };
  if (options.compare)
    service.variants = await (await import('./compare.js')).loadVariants(
      model,
      options,
      service,
      engineOptions,
    );
  const keys = [...(options.apiKey ?? []), ...(process.env.FILIGREE_API_KEY?.split(',') ?? [])].filter(
    Boolean,
  );
  const app = await buildApp(service, {
    apiKeys: keys,
    protectAll: options.protectAll ?? false,
    cors: options.cors ?? [],
    ...(options.rateLimit !== undefined && { rateLimit: options.rateLimit }),
    logger: log,
  });
  for (const problem of manifest.problems) log.warn({ model: manifest.name }, problem);
  for (const { name, problems } of loaded.adapters)
    for (const problem of problems) log.warn({ adapter: name }, problem);
  log.info(
    {
      model: manifest.name,
      threads: info.threads,
      isa: info.isa,
      formats: info.formats,
      sparsity: Number(info.sparsity.toFixed(4)),
      maxModelLen: info.maxModelLen,
      kvBytes: info.kvBytes,
      loadMs: Math.round(info.loadMs),
      fromCache: info.fromCache,
      ...(loaded.adapters.length > 0 && { adapters: info.adapters }),
    },
    'model loaded; threads default to min(affinity, floor of the cgroup quota)',
  );
  try {
    await app.listen({
      host,
      port: options.port,
      listenTextResolver: (address) => `listening at ${address}`,
    });
  } catch (error) {
    await engine.close();
    await kvEvents?.close();
    throw addressError(error as NodeJS.ErrnoException, host, options.port);
  }
  handleSignals(app, service, options.drainTimeout, log);
  announce(app, names[0] as string, performance.now() - started, options);
}

function announce(app: App, model: string, loadMs: number, options: ServeOptions): void {
  const address = app.server.address();
  if (address === null || typeof address === 'string') throw new Error('the server has no address');
  const shown = address.family === 'IPv6' ? `[${address.address}]` : address.address;
  const url = `http://${shown}:${address.port}`;
  if (options.json || !process.stdout.isTTY) {
    process.stdout.write(`${JSON.stringify({ event: 'ready', url, model, load_ms: Math.round(loadMs) })}\n`);
    return;
  }
  process.stdout.write(
    `${model} is ready at ${url} after ${(loadMs / 1000).toFixed(1)} s. API under ${url}/v1, documentation at ${url}/docs.\n`,
  );
}

/** The first signal drains, the second exits now. */
function handleSignals(
  app: App,
  service: Service,
  drainSeconds: number,
  log: ReturnType<typeof makeLogger>,
): void {
  const { lifecycle } = service;
  const engines = [service, ...[...(service.variants?.values() ?? [])].map((v) => v.service)].map(
    (s) => s.engine,
  );
  let stopping = false;
  const stop = async (signal: NodeJS.Signals) => {
    if (stopping) {
      log.warn({ signal }, 'second signal: exiting now');
      process.exit(signal === 'SIGINT' ? 130 : 143);
    }
    stopping = true;
    log.info({ signal, active: lifecycle.active, drainSeconds }, 'draining');
    if (!(await lifecycle.drain(drainSeconds * 1000))) {
      log.warn({ active: lifecycle.active }, 'drain timeout: breaking off what still runs');
      await Promise.all(engines.map((each) => each.drain(0)));
      await lifecycle.drain(FAREWELL_MS);
    }
    setTimeout(() => app.server.closeAllConnections(), FAREWELL_MS).unref();
    await app.close();
    await Promise.all(engines.map((each) => each.close()));
    await service.kvEvents?.close();
    log.info('stopped');
    log.flush(() => process.exit(0));
  };
  const onSignal = (signal: NodeJS.Signals) => {
    stop(signal).catch((error: unknown) => {
      log.error({ err: error }, 'stopping failed');
      process.exit(1);
    });
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
}
