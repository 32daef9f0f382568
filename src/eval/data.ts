import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { PACKAGE_ROOT } from '../config.js';
import { FiligreeError } from '../errors.js';

/** A document as its file has it. */
export type Raw = Record<string, unknown>;

const ENDINGS = ['', '.gz', '.bz2'];

/** The few items that come with the package: enough to see that a task runs, too few to mean anything. */
export const BUILTIN_DATA = join(PACKAGE_ROOT, 'data', 'eval');

/** A folder of evaluation data: JSON lines and plain texts, also compressed (`.gz`, `.bz2`). */
export class DataFolder {
  /** @throws FiligreeError `io_error` */
  constructor(readonly path: string) {
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory())
      throw new FiligreeError('io_error', `--data ${path}: there is no such folder`);
  }

  get builtin(): boolean {
    return this.path === BUILTIN_DATA;
  }

  /** The first of these files that is there, or null. */
  find(...names: string[]): string | null {
    for (const name of names)
      for (const ending of ENDINGS) {
        const path = join(this.path, name + ending);
        if (existsSync(path)) return path;
      }
    return null;
  }

  /** A task's data. @throws FiligreeError `io_error` naming what the task needs and what is there */
  require({ name: task, files: names }: { name: string; files: readonly string[] }): string {
    const path = this.find(...names);
    if (path !== null) return path;
    const there = readdirSync(this.path).sort().slice(0, 40).join(', ') || 'nothing';
    throw new FiligreeError(
      'io_error',
      `task ${task}: no ${names.join(' or ')} (also .gz, .bz2) in ${this.path}, which holds ${there}`,
    );
  }
}

/** A file's text, decompressed by its name. @throws FiligreeError `io_error` */
export function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (path.endsWith('.gz')) return gunzipSync(bytes).toString('utf8');
    if (path.endsWith('.bz2')) return bunzip(bytes).toString('utf8');
    return bytes.toString('utf8');
  } catch (error) {
    throw new FiligreeError('io_error', `${path} cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function bunzip(bytes: Buffer): Buffer {
  // A CommonJS module without types.
  const { decode } = createRequire(import.meta.url)('seek-bzip') as { decode(bytes: Buffer): Buffer };
  return decode(bytes);
}

/** Documents of a JSONL file, `parse`d; at most `limit`. @throws FiligreeError naming file and line */
export function readDocs<T>(
  path: string,
  parse: (raw: Raw) => T | null,
  limit = Number.POSITIVE_INFINITY,
): T[] {
  const docs: T[] = [];
  const lines = readText(path).split('\n');
  for (let i = 0; i < lines.length && docs.length < limit; i++) {
    const line = (lines[i] as string).trim();
    if (line === '') continue;
    try {
      const raw: unknown = JSON.parse(line);
      if (raw === null || typeof raw !== 'object' || Array.isArray(raw)) throw new Error('not a JSON object');
      const doc = parse(raw as Raw);
      if (doc !== null) docs.push(doc);
    } catch (error) {
      throw new FiligreeError('io_error', `${path}, line ${i + 1}: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }
  if (docs.length === 0) throw new FiligreeError('io_error', `${path} holds no document`);
  return docs;
}

/** A field that must be text. */
export function text(raw: Raw, ...names: string[]): string {
  for (const name of names) if (typeof raw[name] === 'string') return raw[name] as string;
  throw new Error(`'${names.join("' or '")}' is missing or not text`);
}

/** A field that must be a list of texts. */
export function texts(raw: Raw, name: string): string[] {
  const value = raw[name];
  if (!Array.isArray(value) || value.length === 0 || value.some((part) => typeof part !== 'string'))
    throw new Error(`'${name}' is missing or not a list of texts`);
  return value as string[];
}

/** A field that must be a whole number in [0, below), written as number, text or boolean. */
export function label(raw: Raw, name: string, below: number): number {
  const value = typeof raw[name] === 'string' && raw[name] !== '' ? Number(raw[name]) : raw[name];
  const number = typeof value === 'boolean' ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number >= below)
    throw new Error(`'${name}' must be a whole number from 0 to ${below - 1}`);
  return number;
}
