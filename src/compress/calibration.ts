import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { PACKAGE_ROOT } from '../config.js';
import { FiligreeError } from '../errors.js';
import { decodeUtf8, ReadableFile } from '../model/model-file.js';
import { readSafetensors } from '../model/safetensors.js';
import type { TokenWindows } from '../native/index.js';
import type { Tokenizer } from '../tokenizer/index.js';

const MAX_TEXT = 512 << 20;
/** Public-domain prose that every installation has; which works stand in it, its README says. */
const BUILTIN = join(PACKAGE_ROOT, 'models', 'calibration', 'text.br');

const io = (message: string) => new FiligreeError('io_error', message);

/** The built-in text: most of it to calibrate on, its last fifth held out. */
function builtin(heldOut: boolean): string {
  const text = brotliDecompressSync(readFileSync(BUILTIN)).toString('utf8');
  const cut = text.lastIndexOf('\n\n', Math.floor(text.length * 0.8));
  return heldOut ? text.slice(cut + 2) : text.slice(0, cut);
}

function readText(path: string): string {
  const file = ReadableFile.open(path);
  try {
    if (file.size > MAX_TEXT)
      throw io(`${path} is ${file.size} bytes long; a calibration text of a few megabytes is enough`);
    let text: string;
    try {
      text = decodeUtf8(file.read(0, file.size), path);
    } catch (error) {
      throw io(`${path} cannot be used as text: ${(error as Error).message}`);
    }
    if (!/\.(jsonl|ndjson)$/.test(path)) return text;
    const documents = text.split('\n').flatMap((line, i) => {
      if (line.trim() === '') return [];
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch {
        throw io(`${path}, line ${i + 1}: not valid JSON`);
      }
      const { text } = (value ?? {}) as { text?: unknown };
      if (typeof text !== 'string') throw io(`${path}, line ${i + 1}: no "text"`);
      return [text];
    });
    return documents.join('\n\n');
  } finally {
    file.close();
  }
}

/** Windows of ids from a safetensors file: its first two-dimensional integer tensor. */
function readIds(path: string): { length: number; ids: Int32Array } {
  const file = ReadableFile.open(path);
  try {
    const { tensors } = readSafetensors(file, 0);
    const found = tensors.find((t) => t.shape.length === 2 && (t.dtype === 'i32' || t.dtype === 'i64'));
    if (found === undefined) throw io(`${path} holds no tensor of ids [windows, length] of type I32 or I64`);
    const bytes = file.read(found.offset, found.bytes);
    const ids = Int32Array.from(
      { length: (found.shape[0] as number) * (found.shape[1] as number) },
      (_, i) => (found.dtype === 'i32' ? bytes.readInt32LE(4 * i) : Number(bytes.readBigInt64LE(8 * i))),
    );
    return { length: found.shape[1] as number, ids };
  } finally {
    file.close();
  }
}

/** `count` windows of `length` tokens, spread evenly over the text, in its order. */
export function cutWindows(ids: ArrayLike<number>, count: number, length: number): TokenWindows {
  const whole = Math.floor(ids.length / length);
  const n = Math.min(whole, count);
  const out = new Int32Array(n * length);
  for (let i = 0; i < n; i++) {
    const window = Math.floor((i * whole) / n);
    for (let j = 0; j < length; j++) out[i * length + j] = ids[window * length + j] as number;
  }
  return { length, ids: out };
}

export interface TextRequest {
  /** A file, builtin or none. */
  source: string;
  count: number;
  length: number;
  heldOut: boolean;
}

/**
 * Token windows of a text, and what to say where it was too short for all that were asked for. Held-out windows are the
 * text's first ones, one after the other, as perplexities are published; calibration's are spread over it.
 *
 * @throws FiligreeError `io_error` if the text cannot be read
 */
export async function readWindows(
  request: TextRequest,
  tokenizer: Tokenizer,
  longest: number,
): Promise<{ windows: TokenWindows; note: string | null }> {
  const { source, count, heldOut } = request;
  const name = heldOut ? 'held-out' : 'calibration';
  const length = Math.min(request.length, longest);
  if (source !== 'builtin' && !existsSync(source)) throw io(`The ${name} text ${source} does not exist`);
  if (source !== 'builtin' && statSync(source).isDirectory())
    throw io(`The ${name} text ${source} is a folder; give a file`);
  if (source.endsWith('.safetensors')) {
    const stored = readIds(source);
    if (stored.length > longest)
      throw io(`${source} holds windows of ${stored.length} tokens, the model takes ${longest}`);
    const windows = { length: stored.length, ids: stored.ids.slice(0, count * stored.length) };
    return { windows, note: null };
  }
  const text = source === 'builtin' ? builtin(heldOut) : readText(source);
  const ids = await tokenizer.encodeAsync(text);
  // A text shorter than one window is a window.
  const fitting = Math.min(length, ids.length);
  if (fitting < 2) throw io(`The ${name} text ${source} is empty`);
  const cut = heldOut ? ids.slice(0, count * fitting) : ids;
  const windows = cutWindows(cut, count, fitting);
  const n = windows.ids.length / windows.length;
  const note =
    n < count || fitting < request.length
      ? `the ${name} text makes ${n} windows of ${windows.length} tokens, not ${count} of ${request.length}`
      : null;
  return { windows, note };
}
