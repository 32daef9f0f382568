import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const MODELS = fileURLToPath(new URL('../../fixtures/models/', import.meta.url));
export const SHARED = fileURLToPath(new URL('../../../../shared/', import.meta.url));

type Json = Record<string, unknown>;

/** A copy of the tiny Hugging Face model that a test may spoil. */
export class ModelFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'filigree-model-'));

  constructor() {
    cpSync(join(MODELS, 'tiny-compressed'), this.path, { recursive: true });
  }

  file(name: string): string {
    return join(this.path, name);
  }

  write(name: string, content: string | Uint8Array): this {
    writeFileSync(this.file(name), content);
    return this;
  }

  /** Changes a JSON file; undefined removes a key. */
  edit(name: string, changes: Json): this {
    const json = { ...(JSON.parse(readFileSync(this.file(name), 'utf8')) as Json), ...changes };
    return this.write(name, JSON.stringify(json));
  }

  remove(name: string): this {
    rmSync(this.file(name));
    return this;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** A safetensors file of tensors given by dtype, shape and bytes. */
export function safetensors(
  tensors: Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }>,
): Buffer {
  const header: Json = {};
  let at = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  return withHeader(JSON.stringify(header), Buffer.concat(Object.values(tensors).map((t) => t.bytes)));
}

export function withHeader(header: string, data: Uint8Array): Buffer {
  const text = Buffer.from(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, data]);
}
