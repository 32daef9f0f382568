import { createHash, type Hash } from 'node:crypto';
import { createReadStream, mkdirSync, statSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FiligreeError } from '../../errors.js';
import { type RemoteFile, request } from './listing.js';

export interface DownloadOptions {
  /** Attempts in a row that bring nothing before giving up. */
  attempts: number;
  /** A connection that is silent for so long is given up. */
  stallMs: number;
  /** Wait before the n-th attempt after a failure: n times this. */
  backoffMs: number;
  /** Bytes more (or, where a file starts over, fewer). */
  onBytes(bytes: number): void;
}

const sizeOf = (path: string): number | null => statSync(path, { throwIfNoEntry: false })?.size ?? null;

/** Where the bytes wait until they are whole. The hash in the name keeps a changed file from going on with old bytes. */
const partOf = (folder: string, file: RemoteFile) =>
  join(folder, `${file.path}.${file.hash.hex.slice(0, 12)}.part`);

function hasher(file: RemoteFile): Hash {
  if (file.hash.kind === 'sha256') return createHash('sha256');
  return createHash('sha1').update(`blob ${file.size}\0`);
}

async function hashFile(file: RemoteFile, path: string): Promise<Hash> {
  const hash = hasher(file);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash;
}

/** Whether the file lies there whole; its bytes are read only where `verify` asks for it. */
export async function isWhole(folder: string, file: RemoteFile, verify: boolean): Promise<boolean> {
  const path = join(folder, file.path);
  if (sizeOf(path) !== file.size) return false;
  return !verify || (await hashFile(file, path)).digest('hex') === file.hash.hex;
}

/** An answer that has nothing to do with what was asked: trying again may help, its bytes do not. */
class WrongAnswer extends Error {}

/**
 * Downloads one file: goes on where an earlier attempt ended, checks the hash, and only then gives the file its name.
 * @throws FiligreeError download_failed, io_error
 */
export async function downloadFile(
  folder: string,
  file: RemoteFile,
  options: DownloadOptions,
): Promise<void> {
  const part = partOf(folder, file);
  mkdirSync(dirname(part), { recursive: true });
  let corrupt = 0;
  let fruitless = 0;
  let counted = 0;
  /** Most bytes so far: only more than ever is progress, or a server that lies in circles would keep us for ever. */
  let best = sizeOf(part) ?? 0;
  let reason = '';
  const count = (total: number) => {
    options.onBytes(total - counted);
    counted = total;
  };
  for (;;) {
    const have = sizeOf(part) ?? 0;
    if (have > file.size) {
      await rm(part, { force: true });
      continue;
    }
    count(have);
    if (have < file.size || (file.size === 0 && sizeOf(part) === null)) {
      try {
        await fetchFrom(part, file, have, options, count);
      } catch (error) {
        if (error instanceof FiligreeError) throw error;
        reason = (error as Error).message;
      }
      const size = sizeOf(part) ?? 0;
      if (size > best || file.size === 0) {
        fruitless = 0;
        best = size;
      } else if (++fruitless >= options.attempts)
        throw new FiligreeError(
          'download_failed',
          `${file.path}: ${reason || 'the connection brings nothing'}, ${options.attempts} times in a row. What came so far is kept; run the command again to go on.`,
        );
      if (size < file.size && fruitless > 0) await sleep(fruitless * options.backoffMs);
      continue;
    }
    if ((await hashFile(file, part)).digest('hex') === file.hash.hex) break;
    await rm(part, { force: true });
    best = 0;
    if (++corrupt >= 2)
      throw new FiligreeError(
        'download_failed',
        `${file.path}: what was downloaded does not have the hash that the hub lists (${file.hash.hex.slice(0, 12)}…), twice. Nothing of it was kept.`,
      );
  }
  await rename(part, join(folder, file.path));
}

/** One attempt: appends to the part what the server sends from `have` on. */
async function fetchFrom(
  part: string,
  file: RemoteFile,
  have: number,
  options: DownloadOptions,
  count: (total: number) => void,
): Promise<void> {
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(), options.stallMs);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), options.stallMs);
  };
  const handle = await open(part, have > 0 ? 'r+' : 'w').catch(diskError);
  try {
    const headers = { 'accept-encoding': 'identity', ...(have > 0 && { range: `bytes=${have}-` }) };
    const response = await request(file.url, headers, abort.signal);
    const at = startOf(response, file, have);
    if (at < have) await handle.truncate(at);
    let position = at;
    for await (const chunk of response.body ?? []) {
      alive();
      const bytes = chunk as Uint8Array;
      if (position + bytes.length > file.size)
        throw new WrongAnswer(`the server sends more than the ${file.size} bytes that it lists`);
      await handle.write(bytes, 0, bytes.length, position).catch(diskError);
      position += bytes.length;
      count(position);
    }
    if (position < file.size) throw new Error(`the connection ended after ${position} of ${file.size} bytes`);
  } catch (error) {
    // An answer that lies about its length brings bytes that nobody can trust.
    if (error instanceof WrongAnswer) await handle.truncate(0);
    if (abort.signal.aborted) throw new Error(`the server was silent for ${options.stallMs / 1000} s`);
    throw error;
  } finally {
    clearTimeout(timer);
    await handle.close();
  }
}

/** The offset that an answer's bytes begin at. */
function startOf(response: Response, file: RemoteFile, have: number): number {
  if (response.status === 416) throw new WrongAnswer('the server knows no bytes from there on');
  if (response.status === 401 || response.status === 403 || response.status === 404)
    throw new FiligreeError('download_failed', `${file.path}: the server answered ${response.status}.`);
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  // A server that knows no ranges sends everything.
  if (response.status !== 206) return 0;
  const [, from, total] =
    /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '') ?? [];
  if (Number(from) !== have || (total !== '*' && Number(total) !== file.size))
    throw new WrongAnswer('the server answered with another range than the one asked for');
  return have;
}

function diskError(error: NodeJS.ErrnoException): never {
  const what = error.code === 'ENOSPC' ? 'the disk is full' : error.message;
  throw new FiligreeError('io_error', `Writing the download failed: ${what}. What came so far is kept.`, {
    cause: error,
  });
}
