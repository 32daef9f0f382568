import { FiligreeError } from '../../errors.js';

/** One file of a repository, and how its bytes are known to be right. */
export interface RemoteFile {
  path: string;
  size: number;
  /** sha256 of the content where the hub keeps large files; else git's own sha1 of the blob. */
  hash: { kind: 'sha256' | 'git'; hex: string };
  url: string;
}

export interface Listing {
  id: string;
  /** Commit that the files belong to. */
  revision: string;
  files: RemoteFile[];
}

const failed = (message: string, cause?: unknown) => new FiligreeError('download_failed', message, { cause });

/** The server could not be reached or did not answer: what is in the cache may still serve. */
export class Unreachable extends Error {}

export async function request(
  url: string,
  headers: Record<string, string>,
  signal?: AbortSignal,
): Promise<Response> {
  const token = process.env.HF_TOKEN;
  try {
    // Credentials are dropped by fetch itself where a redirect leaves the host.
    return await fetch(url, {
      headers: { ...headers, ...(token && { authorization: `Bearer ${token}` }) },
      ...(signal && { signal }),
    });
  } catch (error) {
    const { message, cause } = error as Error & { cause?: Error };
    throw new Unreachable(`${new URL(url).host}: ${cause?.message ?? message}`, { cause: error });
  }
}

async function json(url: string, what: string): Promise<unknown> {
  const response = await request(url, { accept: 'application/json' });
  if (response.status >= 500 || response.status === 429)
    throw new Unreachable(`${new URL(url).host} answered ${response.status}`);
  if (response.status === 401 || response.status === 403)
    throw failed(`${what} is private, gated or does not exist. Set HF_TOKEN to a token that may read it.`);
  if (response.status === 404) throw failed(`${what} does not exist on ${new URL(url).host}.`);
  if (!response.ok) throw failed(`${new URL(url).host} answered ${response.status} for ${what}.`);
  try {
    return await response.json();
  } catch (error) {
    throw failed(`${new URL(url).host} did not answer with JSON for ${what}: is it a hub?`, error);
  }
}

/** A path inside the repository that stays inside its folder. */
function safe(path: unknown): path is string {
  return (
    typeof path === 'string' &&
    /^[^/\\\0][^\\\0]*$/.test(path) &&
    path.split('/').every((part) => part !== '' && part !== '.' && part !== '..') &&
    !/^[a-zA-Z]:/.test(path)
  );
}

function fileOf(raw: unknown, base: string, id: string, revision: string): RemoteFile | null {
  const entry = raw as {
    type?: unknown;
    path?: unknown;
    size?: unknown;
    oid?: unknown;
    lfs?: { oid?: unknown; size?: unknown };
  };
  if (entry?.type !== 'file') return null;
  if (!safe(entry.path))
    throw failed(`${id}: the hub lists a file whose path leaves the folder; nothing was downloaded.`);
  const size = entry.lfs?.size ?? entry.size;
  const hex = entry.lfs ? String(entry.lfs.oid).replace(/^sha256:/, '') : String(entry.oid);
  const kind = entry.lfs ? 'sha256' : 'git';
  const wellFormed = (kind === 'sha256' ? /^[\da-f]{64}$/ : /^[\da-f]{40}$/).test(hex);
  if (!Number.isSafeInteger(size) || (size as number) < 0 || !wellFormed)
    throw failed(`${id}: the hub lists ${entry.path} without a size and a hash that could be checked.`);
  const url = `${base}/${id}/resolve/${revision}/${entry.path.split('/').map(encodeURIComponent).join('/')}`;
  return { path: entry.path, size: size as number, hash: { kind, hex }, url };
}

/**
 * What a repository holds at a revision.
 * @throws FiligreeError download_failed; Unreachable where the hub does not answer
 */
export async function listRepository(base: string, id: string, revision: string): Promise<Listing> {
  const at = `${base}/api/models/${id}`;
  const info = (await json(`${at}/revision/${encodeURIComponent(revision)}`, id)) as { sha?: unknown };
  const sha = typeof info?.sha === 'string' && /^[\da-f]{40}$/.test(info.sha) ? info.sha : null;
  if (sha === null) throw failed(`${new URL(base).host} names no commit for ${id} at ${revision}.`);
  const tree = await json(`${at}/tree/${sha}?recursive=true`, id);
  if (!Array.isArray(tree)) throw failed(`${new URL(base).host} lists no files for ${id}.`);
  const files = tree.map((entry) => fileOf(entry, base, id, sha)).filter((file) => file !== null);
  return { id, revision: sha, files };
}

const WANTED =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|adapter_config)\.json$|^(chat_template\.jinja|merges\.txt|tokenizer\.model|README\.md|LICENSE[^/]*)$|^[^/]+\.safetensors(\.index\.json)?$/;

/**
 * The files that this program reads: a safetensors model's, or one GGUF file.
 * @throws FiligreeError where there is nothing to run, or too much to choose from
 */
export function chooseFiles(listing: Listing, wanted: string | undefined): RemoteFile[] {
  const { id, files } = listing;
  if (wanted !== undefined) {
    const chosen = files.filter((file) => file.path === wanted || file.path.endsWith(`/${wanted}`));
    if (chosen.length > 0) return chosen;
    throw failed(
      `${id} has no file ${wanted}. It has: ${files
        .map((f) => f.path)
        .slice(0, 40)
        .join(', ')}`,
    );
  }
  if (files.some((file) => /^[^/]+\.safetensors$/.test(file.path)))
    return files.filter((f) => WANTED.test(f.path));
  const ggufs = files.filter((file) => file.path.endsWith('.gguf'));
  if (ggufs.length === 1) return ggufs;
  if (ggufs.length > 1)
    throw failed(
      `${id} has several GGUF files; choose one with --file: ${ggufs.map((f) => f.path).join(', ')}`,
    );
  throw failed(`${id} holds neither safetensors nor GGUF files, so there is nothing here that can be run.`);
}
