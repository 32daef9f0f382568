import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { FiligreeError } from '../errors.js';
import type { ModelFile } from './manifest.js';

export const invalid = (message: string, cause?: unknown) =>
  new FiligreeError('model_invalid', message, { cause });
export const unsupported = (message: string) => new FiligreeError('model_unsupported', message);

/**
 * A model's file, read at given positions.
 *
 * Reads are synchronous: opening a model reads a few megabytes before the process serves anything, and half a
 * million tiny strings of a GGUF header would each cost a promise otherwise.
 */
export class ReadableFile {
  private constructor(
    private readonly fd: number,
    readonly info: ModelFile,
  ) {}

  /** @throws FiligreeError `io_error` if it cannot be opened or is not a regular file */
  static open(path: string): ReadableFile {
    let fd: number | undefined;
    try {
      fd = openSync(path, 'r');
      const stat = fstatSync(fd);
      if (!stat.isFile()) throw new Error('it is not a regular file');
      return new ReadableFile(fd, { path, size: stat.size, mtimeMs: stat.mtimeMs });
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      throw new FiligreeError('io_error', `Cannot open ${path}: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  get size(): number {
    return this.info.size;
  }

  get name(): string {
    return basename(this.info.path);
  }

  /** @throws FiligreeError `model_invalid` if the range is not within the file, `io_error` if it cannot be read */
  read(offset: number, length: number): Buffer {
    if (!inRange(offset, length, this.size)) {
      throw invalid(
        `${this.name}: ${length} bytes at ${offset} lie beyond its ${this.size} bytes; it is truncated or damaged`,
      );
    }
    const buffer = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      let n: number;
      try {
        n = readSync(this.fd, buffer, done, length - done, offset + done);
      } catch (error) {
        throw new FiligreeError('io_error', `Cannot read ${this.info.path}: ${(error as Error).message}`, {
          cause: error,
        });
      }
      if (n === 0) throw new FiligreeError('io_error', `${this.info.path} became shorter while it was read`);
      done += n;
    }
    return buffer;
  }

  close(): void {
    closeSync(this.fd);
  }
}

export function inRange(offset: number, length: number, size: number): boolean {
  return (
    Number.isSafeInteger(offset) &&
    Number.isSafeInteger(length) &&
    offset >= 0 &&
    length >= 0 &&
    offset <= size - length
  );
}

/** @throws FiligreeError `model_invalid` if the bytes are not UTF-8 */
export function decodeUtf8(bytes: Uint8Array, what: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw invalid(`${what} is not valid UTF-8`, error);
  }
}

/** A whole small file as text. */
export function readText(path: string, maxBytes: number): string {
  const file = ReadableFile.open(path);
  try {
    if (file.size > maxBytes) {
      throw invalid(`${file.name} is ${file.size} bytes long; at most ${maxBytes} are read`);
    }
    return decodeUtf8(file.read(0, file.size), file.name);
  } finally {
    file.close();
  }
}
