import { existsSync, readdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PACKAGE_ROOT } from '../config.js';
import { FiligreeError } from '../errors.js';

/** Bytes of a download so far, and in all. */
export type Progress = (done: number, total: number) => void;

const MODELS = join(PACKAGE_ROOT, 'models');

/** Where downloads and packed weights lie: FILIGREE_CACHE, or ~/.cache/filigree. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return environment.FILIGREE_CACHE || join(homedir(), '.cache', 'filigree');
}

const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
const isFile = (path: string) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

/** The model at a path: a folder with config.json, a GGUF file, or a folder that holds exactly one; null if none. */
function modelAt(path: string): string | null {
  if (isFile(path)) return path;
  if (!isFolder(path)) return null;
  if (existsSync(join(path, 'config.json'))) return path;
  const ggufs = readdirSync(path).filter((name) => name.endsWith('.gguf'));
  return ggufs.length === 1 ? join(path, ggufs[0] as string) : null;
}

/** The embedded default model if this installation has one. */
export function embeddedDefault(): string | null {
  return modelAt(join(MODELS, 'default'));
}

/**
 * Finds the model that a name stands for: a path, a folder under `models/`, or what lies in the cache (a hub id
 * `owner/name` as such or as `owner--name`). Without a name it is the embedded default, or the one fetched once into the
 * cache.
 *
 * @throws FiligreeError `model_missing` saying where it was looked for
 */
export async function resolveModel(name?: string, onProgress?: Progress): Promise<string> {
  if (name === undefined || name === '' || name === 'default')
    return embeddedDefault() ?? (await fetchDefaultModel(onProgress));
  const direct = modelAt(resolve(name));
  if (direct !== null) return direct;
  if (isFolder(resolve(name))) {
    throw new FiligreeError(
      'model_missing',
      `${resolve(name)} holds neither config.json nor a single .gguf file; give the folder of a model or one .gguf file`,
    );
  }
  const cache = join(cacheFolder(), 'models');
  if (!name.split(/[/\\]/).includes('..')) {
    for (const root of [MODELS, cache]) {
      for (const form of [name, name.replaceAll('/', '--'), `${name}.gguf`]) {
        const found = modelAt(join(root, form));
        if (found !== null) return found;
      }
    }
    const loose = isFolder(cache)
      ? readdirSync(cache).filter((f) => f.toLowerCase().startsWith(`${basename(name).toLowerCase()}.`))
      : [];
    const [only] = loose.filter((f) => f.endsWith('.gguf'));
    if (only !== undefined) return join(cache, only);
  }
  throw new FiligreeError(
    'model_missing',
    `No model ${JSON.stringify(name)}: it is neither a path nor a folder under ${MODELS} or ${cache}. Give a folder, a .gguf file, or leave it out for the default model`,
  );
}

interface FetchScript {
  fetchDefault(folder: string, onProgress?: Progress): Promise<string>;
}

async function fetchDefaultModel(onProgress?: Progress): Promise<string> {
  // Plain JavaScript, so that it also runs on its own before anything is built.
  const script = (await import(pathToFileURL(join(MODELS, 'fetch-default.mjs')).href)) as FetchScript;
  try {
    return await script.fetchDefault(join(cacheFolder(), 'models'), onProgress);
  } catch (error) {
    throw new FiligreeError('model_missing', (error as Error).message, { cause: error });
  }
}
