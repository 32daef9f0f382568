import { describe, expect, test } from 'vitest';
import { countZeros, nativeInfo, readRows } from '../../src/native/index.js';
import { manifest } from './support.js';

describe('tools', () => {
  test('nativeInfo names the processor, its instruction sets and the kernels', async () => {
    const info = await nativeInfo();
    expect(info.isas).toContain('scalar');
    expect(info.isas).toContain(info.bestIsa);
    expect(info.defaultThreads).toBeGreaterThanOrEqual(1);
    expect(info.kernels.some((kernel) => kernel.isa === 'scalar' && kernel.supported)).toBe(true);
  });

  test('zeros and rows of a tensor', async () => {
    const files = manifest.files.map((file) => file.path);
    const tensor = manifest.tensors.find((t) => t.name === 'model.embed_tokens.weight')!;
    const rows = await readRows(tensor, files, 0, tensor.shape[0]!);
    expect(rows.length).toBe(tensor.shape[0]! * tensor.shape[1]!);
    const zeros = rows.reduce((sum, value) => sum + (value === 0 ? 1 : 0), 0);
    expect(await countZeros(tensor, files)).toEqual({ zeros, total: rows.length });
    await expect(readRows(tensor, files, tensor.shape[0]!, 1)).rejects.toThrow(/rows/);
    await expect(countZeros(tensor, ['/nonexistent'])).rejects.toMatchObject({ code: 'io' });
  });
});
