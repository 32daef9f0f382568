import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FiligreeError } from '../../errors.js';
import { cacheFolder } from '../resolve.js';
import { downloadFile, isWhole } from './download.js';
import { chooseFiles, type Listing, listRepository, type RemoteFile, Unreachable } from './listing.js';

export const HUB = 'https://huggingface.co';

export interface PullOptions {
  /** A hub or a mirror that has its paths. */
  from?: string;
  revision?: string;
  /** One file alone, such as a GGUF among several. */
  file?: string;
  /** Files at once. */
  parallel?: number;
  /** Check the hashes of files that lie there already. */
  verify?: boolean;
  attempts?: number;
  stallMs?: number;
  backoffMs?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface Pulled {
  /** What MODEL takes. */
  path: string;
  /** Bytes of all files. */
  bytes: number;
  /** Bytes that came over the network. */
  downloaded: number;
  revision: string;
  /** The hub could not be reached: this is what the cache holds. */
  offline: boolean;
}

interface PullRecord {
  id: string;
  revision: string;
  files: RemoteFile[];
}

const RECORD = '.filigree-pull.json';

function cached(folder: string): PullRecord | null {
  try {
    const record = JSON.parse(readFileSync(join(folder, RECORD), 'utf8')) as PullRecord;
    return Array.isArray(record.files) ? record : null;
  } catch {
    return null;
  }
}

/**
 * Downloads a model of a hub into the cache, where its id is then a MODEL. Interrupted, it goes on where it was; a
 * folder without its last file (config.json) is no model, so half a download never loads.
 * @throws FiligreeError download_failed, io_error
 */
export async function pull(id: string, options: PullOptions = {}): Promise<Pulled> {
  const name = /^[\w.-]+\/[\w.-]+$/;
  if (!name.test(id) || id.split('/').some((part) => /^\.+$/.test(part)))
    throw new FiligreeError(
      'usage',
      `'${id}' is no hub id: give owner/name, such as HuggingFaceTB/SmolLM2-135M-Instruct`,
    );
  const base = baseOf(options.from ?? process.env.HF_ENDPOINT ?? HUB);
  const folder = join(cacheFolder(), 'models', id.replace('/', '--'));
  let listing: Listing;
  try {
    listing = await listRepository(base, id, options.revision ?? 'main');
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    return fromCache(folder, id, error);
  }
  // config.json last: only then is the folder a model.
  const files = chooseFiles(listing, options.file).sort(
    (a, b) => Number(a.path === 'config.json') - Number(b.path === 'config.json'),
  );
  mkdirSync(folder, { recursive: true });
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const previous = cached(folder);
  const missing: RemoteFile[] = [];
  let done = 0;
  for (const file of files) {
    const known = previous?.files.some((f) => f.path === file.path && f.hash.hex === file.hash.hex) ?? false;
    // Bytes that no record vouches for are read.
    if (await isWhole(folder, file, options.verify === true || !known)) done += file.size;
    else missing.push(file);
  }
  const before = done;
  options.onProgress?.(done, total);
  const fetchOne = (file: RemoteFile) =>
    downloadFile(folder, file, {
      attempts: options.attempts ?? 5,
      stallMs: options.stallMs ?? 30_000,
      backoffMs: options.backoffMs ?? 1000,
      onBytes: (bytes) => {
        done += bytes;
        options.onProgress?.(done, total);
      },
    });
  const last = missing.at(-1)?.path === 'config.json' ? missing.pop() : undefined;
  await inParallel(missing, options.parallel ?? 4, fetchOne);
  if (last) await fetchOne(last);
  const record: PullRecord = { id, revision: listing.revision, files };
  writeFileSync(join(folder, RECORD), `${JSON.stringify(record, null, 2)}\n`);
  return {
    path: modelPath(folder, files),
    bytes: total,
    downloaded: done - before,
    revision: listing.revision,
    offline: false,
  };
}

function baseOf(from: string): string {
  try {
    const url = new URL(from);
    if (url.protocol === 'http:' || url.protocol === 'https:') return from.replace(/\/+$/, '');
  } catch {
    // Said below.
  }
  throw new FiligreeError('usage', `--from takes the address of a hub, such as ${HUB}, not '${from}'`);
}

function fromCache(folder: string, id: string, error: Unreachable): Pulled {
  const record = cached(folder);
  const whole = record?.files.every((file) => existsSync(join(folder, file.path)));
  if (!record || !whole)
    throw new FiligreeError(
      'download_failed',
      `The hub cannot be reached (${error.message}), and ${id} is not in the cache. Check the network, or name a mirror with --from.`,
      { cause: error },
    );
  const bytes = record.files.reduce((sum, file) => sum + file.size, 0);
  return {
    path: modelPath(folder, record.files),
    bytes,
    downloaded: 0,
    revision: record.revision,
    offline: true,
  };
}

/** The folder, or the one GGUF file in it. */
function modelPath(folder: string, files: readonly RemoteFile[]): string {
  const [first] = files;
  return files.length === 1 && first?.path.endsWith('.gguf') ? join(folder, first.path) : folder;
}

/** The first failure stops new files; those that run end first, so that nothing writes behind the caller's back. */
async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failure: unknown = null;
  const worker = async () => {
    while (next < items.length && failure === null) {
      const item = items[next++] as T;
      await work(item).catch((error: unknown) => {
        failure ??= error;
      });
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
  if (failure !== null) throw failure;
}
