import { createHash } from 'node:crypto';
import type { ModelConfig, TensorEntry } from './manifest.js';
import type { ReadableFile } from './model-file.js';

const SAMPLES = 8;
const SAMPLE_BYTES = 4096;

/**
 * The key under which packed weights are cached: SHA-256 over
 *
 * - the size of every weight file and the configuration as understood,
 * - every tensor's name, shape, encoding and parts (so, all headers),
 * - of every part of every tensor eight samples of 4 KiB, spread evenly from its first byte to its last (all of a part
 *   that is shorter).
 *
 * Paths and times are not in it: a copy has the same key. Retraining, pruning or quantizing a tensor touches all of
 * it and changes the key; an edit of single bytes between the samples does not, and needs the cache cleared by hand.
 */
export function sourceKey(config: ModelConfig, tensors: TensorEntry[], files: ReadableFile[]): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify(['filigree-source-1', files.map((f) => f.size), config, tensors]));
  for (const tensor of tensors) {
    for (const part of Object.values(tensor.parts)) {
      const file = files[part.file] as ReadableFile;
      if (part.bytes <= SAMPLES * SAMPLE_BYTES) {
        hash.update(file.read(part.offset, part.bytes));
        continue;
      }
      for (let i = 0; i < SAMPLES; i++) {
        const at = Math.floor(((part.bytes - SAMPLE_BYTES) * i) / (SAMPLES - 1));
        hash.update(file.read(part.offset + at, SAMPLE_BYTES));
      }
    }
  }
  return hash.digest('hex');
}
