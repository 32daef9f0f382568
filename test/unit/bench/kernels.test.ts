import { describe, expect, test } from 'vitest';
import {
  benchKernels,
  kernelCandidates,
  kernelTable,
  layerMatrices,
  stackedMatrices,
} from '../../../bench/kernels.js';
import { randomModel } from '../../../bench/shapes.js';
import type { KernelVariant } from '../../../src/native/index.js';
import { measurePeak, nativeInfo, packKernelMatrix } from '../../../src/native/index.js';

const variant = (name: string, format: string, minTokens: number, maxTokens: number): KernelVariant => ({
  name,
  isa: 'x',
  format,
  layout: 'dense',
  minTokens,
  maxTokens,
  supported: true,
});

describe('what bench kernels measures', () => {
  test('the first kernel that serves a number of tokens is the planned one', () => {
    const list = kernelCandidates(
      [
        variant('a', 'i8', 1, 6),
        variant('b', 'i8', 7, 1000),
        variant('c', 'i8', 1, 1000),
        variant('d', 'f32', 1, 9),
      ],
      [1, 16],
    );
    expect(list.map((c) => [c.variant.name, c.tokens, c.planned])).toEqual([
      ['a', 1, true],
      ['b', 16, true],
      ['c', 1, false],
      ['c', 16, false],
      ['d', 1, true],
    ]);
  });

  test('layers are stacked until there are weights enough, each kind on its own', () => {
    const [qkv, down] = stackedMatrices(randomModel('135m', 0.5), ['qkv', 'down'], 1_500_000);
    expect(qkv!.tensors.map((t) => t.name)).toEqual([
      'model.layers.0.self_attn.q_proj.weight',
      'model.layers.0.self_attn.k_proj.weight',
      'model.layers.0.self_attn.v_proj.weight',
      'model.layers.1.self_attn.q_proj.weight',
      'model.layers.1.self_attn.k_proj.weight',
      'model.layers.1.self_attn.v_proj.weight',
      'model.layers.2.self_attn.q_proj.weight',
      'model.layers.2.self_attn.k_proj.weight',
    ]);
    expect(down!.tensors).toHaveLength(2);
  });

  test("a GPU's launches are tuned on the matrices of one layer, stacked as an engine stacks them", () => {
    const matrices = layerMatrices(randomModel('135m', 0.5), ['qkv', 'o', 'gate_up', 'down']);
    expect(matrices.map((m) => [m.name, m.tensors.reduce((rows, t) => rows + t.shape[0]!, 0)])).toEqual([
      ['qkv', 576 + 2 * 192],
      ['o', 576],
      ['gate_up', 2 * 1536],
      ['down', 576],
    ]);
  });
});

describe('kernels timed one by one', () => {
  const random = (rows: number, cols: number, zeros: number) => ({
    name: 'w',
    shape: [rows, cols],
    encoding: 'random' as const,
    parts: {},
    random: { seed: 3, zeros },
  });

  test('every kernel of this machine runs on a small matrix, and its row says what was stored', async () => {
    const info = await nativeInfo();
    const result = await benchKernels({
      cpu: info.cpu,
      model: 'small',
      files: [],
      matrices: [{ name: 'w', tensors: [random(64, 256, 0.7), random(32, 256, 0.7)] }],
      candidates: kernelCandidates(
        info.kernels.filter((k) => k.supported),
        [1, 40],
      ),
      threads: 1,
      rounds: 1,
    });
    expect(result.rows.length).toBeGreaterThan(10);
    for (const row of result.rows) {
      expect(row.rows).toBe(96);
      expect(row.ms).toBeGreaterThan(0);
      if (row.layout === 'dense') expect(row.sparsity).toBe(0);
      else expect(row.sparsity).toBeGreaterThan(0.6);
    }
    expect(kernelTable(result)).toContain('w: 96 x 256');
  });

  test('a wrong kernel, format or closed matrix is refused by name', async () => {
    const matrix = await packKernelMatrix([random(16, 64, 0)], [], {
      format: 'f32',
      layout: 'dense',
      threads: 1,
    });
    await expect(matrix.measure('nonesuch', 1, 1)).rejects.toThrow(/no kernel 'nonesuch' for f32 dense/);
    matrix.close();
    await expect(matrix.measure('reference_f32', 1, 1)).rejects.toThrow(/closed/);
    expect(() => packKernelMatrix([], [], { format: 'i9' as 'i8', layout: 'dense', threads: 1 })).toThrow(
      /i9|one of/,
    );
    await expect(packKernelMatrix([], [], { format: 'i8', layout: 'dense', threads: 1 })).rejects.toThrow();
  });

  test('without a GPU launch shapes cannot be tuned; with one the table comes back, and a damaged one is refused', async () => {
    const { cudaObstacle } = await nativeInfo();
    const matrix = await packKernelMatrix([random(4096, 2048, 0.7)], [], {
      format: 'bf16',
      layout: 'dense',
      threads: 1,
    });
    if (cudaObstacle !== null) {
      await expect(matrix.tune('')).rejects.toThrow(cudaObstacle);
    } else {
      const { launches, plans } = await matrix.tune('');
      expect(launches.map((l) => l.tokens)).toEqual([8, 16, 32]);
      for (const l of launches) expect(l.bestUs).toBeLessThanOrEqual(l.plannedUs);
      expect(plans).toMatch(/^filigree launch shapes 1\n\[.+\]\n/);
      await expect(matrix.tune('nonsense')).rejects.toThrow(/line 1/);
    }
    matrix.close();
  });

  test('scalar code has no multiply unit to be held against', async () => {
    expect(await measurePeak('i8', 'scalar', 1)).toBeNull();
  });
});
