import { closeSync, fsyncSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { FiligreeError } from '../errors.js';
import type { EncodedTensor } from '../native/index.js';

/** One tensor of a file to come, its bytes in memory or a range of another file. */
export interface PendingTensor {
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
  data: Buffer | { path: string; offset: number };
}

export const pending = (tensors: EncodedTensor[]): PendingTensor[] =>
  tensors.map(({ name, dtype, shape, data }) => ({ name, dtype, shape, bytes: data.length, data }));

/** What went wrong with a file, and what to do where the reason is a full disk. */
export function ioError(action: string, path: string, error: unknown): FiligreeError {
  const { code, message } = error as NodeJS.ErrnoException;
  const full = code === 'ENOSPC' || code === 'EDQUOT';
  return new FiligreeError(
    'io_error',
    full
      ? `Cannot ${action} ${path}: the disk is full. Free some space, then continue with --resume`
      : `Cannot ${action} ${path}: ${message}`,
    { cause: error },
  );
}

const COPY_BYTES = 8 << 20;

/**
 * Writes a safetensors file: 8 bytes of header length, the header, then the tensors in the order given, each on a multiple
 * of 8 bytes where its neighbours allow it. The file appears under its name only when all of it is on the disk.
 *
 * @throws FiligreeError `io_error`
 */
export function writeSafetensors(path: string, tensors: PendingTensor[]): void {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeAtomically(path, (write) => {
    write(length);
    write(padded);
    for (const tensor of tensors) {
      if (Buffer.isBuffer(tensor.data)) write(tensor.data);
      else copyRange(tensor.data.path, tensor.data.offset, tensor.bytes, write);
    }
  });
}

/** A file that is there whole or not at all: written beside its place, flushed to the disk, then renamed. */
export function writeAtomically(path: string, body: (write: (bytes: Uint8Array) => void) => void): void {
  const temporary = `${path}.tmp`;
  try {
    const fd = openSync(temporary, 'w');
    try {
      body((bytes) => {
        for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done);
      });
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true }); // on a full disk its bytes are wanted
    throw error instanceof FiligreeError ? error : ioError('write', path, error);
  }
}

export const writeText = (path: string, text: string): void =>
  writeAtomically(path, (write) => write(Buffer.from(text)));

function copyRange(path: string, offset: number, bytes: number, write: (bytes: Uint8Array) => void): void {
  const fd = openSync(path, 'r');
  try {
    const buffer = Buffer.allocUnsafe(Math.min(COPY_BYTES, Math.max(1, bytes)));
    for (let done = 0; done < bytes; ) {
      const n = readSync(fd, buffer, 0, Math.min(buffer.length, bytes - done), offset + done);
      if (n === 0) throw new FiligreeError('io_error', `${path} became shorter while it was read`);
      write(buffer.subarray(0, n));
      done += n;
    }
  } finally {
    closeSync(fd);
  }
}
