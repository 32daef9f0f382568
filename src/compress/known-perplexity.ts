import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cacheFolder } from '../model/index.js';
import type { PassPrecision, TokenWindows } from '../native/index.js';

/**
 * The perplexity of a model on a text, kept from run to run: someone who tries several recipes does not wait for the
 * original's each time.
 */
export class KnownPerplexity {
  private readonly path: string;

  constructor(sourceKey: string, text: TokenWindows, precision: PassPrecision) {
    const { ids, length } = text;
    const hash = createHash('sha256').update(JSON.stringify([sourceKey, length, precision]));
    hash.update(Buffer.from(ids.buffer, ids.byteOffset, ids.byteLength));
    this.path = join(cacheFolder(), 'perplexity', hash.digest('hex'));
  }

  read(): number | null {
    try {
      const value = Number(readFileSync(this.path, 'utf8'));
      return Number.isFinite(value) && value > 0 ? value : null;
    } catch {
      return null;
    }
  }

  write(value: number): void {
    try {
      mkdirSync(dirname(this.path), { recursive: true });
      writeFileSync(this.path, String(value));
    } catch {
      // A cache that cannot be written costs the next run its time, no more.
    }
  }
}
