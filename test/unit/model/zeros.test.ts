import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { drawZeros, inspectModel } from '../../../src/cli/inspect.js';
import { openModel } from '../../../src/model/index.js';
import { MODELS } from './folder.js';

/** Share of zeros of every tensor in an expected.bin, which the formats' own libraries computed. */
function expectedZeros(path: string): Map<string, number> {
  const bytes = readFileSync(path);
  const shares = new Map<string, number>();
  for (let at = 0; at < bytes.length; ) {
    const [length, rows, cols] = [0, 4, 8].map((i) => bytes.readUInt32LE(at + i)) as [number, number, number];
    const name = bytes.toString('utf8', at + 12, at + 12 + length);
    at += 12 + length;
    let zeros = 0;
    for (let i = 0; i < rows * cols; i++) if (bytes.readFloatLE(at + 4 * i) === 0) zeros++;
    at += 4 * rows * cols;
    shares.set(name, zeros / (rows * cols));
  }
  return shares;
}

it.each([
  ['tiny-compressed', 'tiny-compressed/expected.bin'],
  ['tiny.gguf', 'tiny.gguf.expected.bin'],
])('inspect counts the zeros of %s as the values have them', async (name, expectedPath) => {
  const report = await inspectModel(await openModel(join(MODELS, name)), true);
  const expected = expectedZeros(join(MODELS, expectedPath));
  expect(expected.size).toBeGreaterThan(7);
  for (const [tensor, share] of expected)
    expect(report.tensors.find((t) => t.name === tensor)?.zeros, tensor).toBe(share);
});

it('inspect adds up', async () => {
  const report = await inspectModel(await openModel(join(MODELS, 'tiny-compressed')), true);
  expect(report.bytes).toBe(report.tensors.reduce((sum, t) => sum + t.bytes, 0));
  expect(Object.values(report.formats).reduce((sum, f) => sum + f.parameters, 0)).toBe(report.parameters);
  expect(report).toMatchObject({ dense_bf16_bytes: 2 * report.parameters, weights_auto: 'i4', problems: [] });
  const matrices = report.tensors.filter((t) => t.name.includes('_proj'));
  const weight = (t: { shape: number[] }) => (t.shape[0] as number) * (t.shape[1] as number);
  const zeros = matrices.reduce((sum, t) => sum + (t.zeros as number) * weight(t), 0);
  expect(report.sparsity).toBeCloseTo(zeros / matrices.reduce((sum, t) => sum + weight(t), 0), 12);
});

it('the drawing has a column for each layer, or for several where there are many', () => {
  const layer = (i: number, zeros: number) => ({
    name: `model.layers.${i}.mlp.up_proj.weight`,
    shape: [1, 1],
    format: 'f32',
    bytes: 4,
    bits_per_weight: 32,
    zeros,
  });
  const rows = drawZeros([layer(0, 0), layer(1, 0.5), layer(2, 1)], 3);
  expect(rows.find((row) => row.startsWith('up_proj'))).toBe('up_proj   │ ▄█│ 50.0 %');
  expect(rows.find((row) => row.startsWith('q_proj'))).toContain('not counted');
  const many = Array.from({ length: 250 }, (_, i) => layer(i, 1));
  expect(drawZeros(many, 250).find((row) => row.startsWith('up_proj'))).toBe(
    `up_proj   │${'█'.repeat(84)}│ 100.0 %`,
  );
});
