import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/config.js';

const FOLDER = join(PACKAGE_ROOT, 'models/default');
const WEIGHTS = join(FOLDER, 'model.safetensors');
const without = existsSync(WEIGHTS) ? '' : ' (skipped, models/default is not here)';

const MATRICES = [
  ...['q', 'k', 'v', 'o'].map((kind) => `self_attn.${kind}_proj`),
  ...['gate', 'up', 'down'].map((kind) => `mlp.${kind}_proj`),
];

interface Masks {
  '50': { zeros: number; pruned: string; shipped: { zeros: number; sha256: string } };
}

function readTensors(): (name: string) => Buffer {
  const file = readFileSync(WEIGHTS);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  return (name) => {
    const [from, to] = header[name]?.data_offsets ?? [0, 0];
    return file.subarray(start + from, start + to);
  };
}

const ones = (bytes: Buffer): number => {
  let count = 0;
  for (let byte of bytes) for (; byte !== 0; byte &= byte - 1) count++;
  return count;
};

describe(`the model in models/default${without}`, () => {
  const masks = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'models/recipes/masks.json'), 'utf8')) as Masks;

  it.skipIf(without)('is one artifact of at most 80 MB with its card', () => {
    const bytes = readdirSync(FOLDER).reduce((sum, name) => sum + statSync(join(FOLDER, name)).size, 0);
    expect(bytes).toBeLessThanOrEqual(80e6);
    expect(readFileSync(join(FOLDER, 'README.md'), 'utf8')).toMatch(/Apache-2\.0/);
  });

  it.skipIf(without)('has the zeros that training froze, and those that rounding added', () => {
    const tensor = readTensors();
    const hash = createHash('sha256');
    let stored = 0;
    let elements = 0;
    for (let layer = 0; layer < 30; layer++) {
      for (const name of MATRICES) {
        const bits = tensor(`model.layers.${layer}.${name}.bitmask`);
        hash.update(bits);
        stored += ones(bits);
        elements += bits.length * 8;
      }
    }
    expect(elements).toBe(106_168_320);
    expect(elements - stored).toBe(masks['50'].shipped.zeros);
    expect(hash.digest('hex')).toBe(masks['50'].shipped.sha256);
    // 0.51 % of the weights that were kept have the code 0.
    expect(masks['50'].shipped.zeros - masks['50'].zeros).toBeLessThan(
      0.0055 * (elements - masks['50'].zeros),
    );
  });
});
