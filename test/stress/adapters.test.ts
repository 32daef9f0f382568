import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GREEDY } from '../../src/engine/model-runner.js';
import { type ModelManifest, openAdapter, openModel, type TensorEntry } from '../../src/model/index.js';
import { loadNativeRunner, type NativeRunner, readRows } from '../../src/native/index.js';
import { noise } from '../compress/tiny.js';
import { missing, SPARSE70 } from '../conformance/support.js';
import { AdapterFolder, merge, type Pair } from '../unit/model/adapter-folder.js';

const skipped = missing(SPARSE70);
const RANK = 8;
const NONE = new Int32Array(0);

/** The model with an adapter of rank 8 on every matrix of every layer, served and merged into f32 weights. */
describe.skipIf(skipped)(`SmolLM2 under a random adapter${skipped ? ` (${skipped})` : ''}`, () => {
  const folder = mkdtempSync(join(tmpdir(), 'filigree-merged-'));
  let adapter: AdapterFolder;
  let served: NativeRunner;
  let merged: NativeRunner;
  const load = (model: ModelManifest, adapters: ReturnType<typeof openAdapter>[] = []) =>
    loadNativeRunner(model, {
      weights: 'f32',
      dense: false,
      kv: 'f32',
      maxModelLen: 256,
      maxSlots: 4,
      maxBatchedTokens: 256,
      kvMemory: 256 << 20,
      packedCache: false,
      adapters,
    });

  beforeAll(async () => {
    const base = await openModel(SPARSE70);
    const files = base.files.map((file) => file.path);
    const random = noise(21);
    const pairs: Pair[] = [];
    const path = join(folder, 'merged.bin');
    const file = openSync(path, 'w');
    const tensors: TensorEntry[] = [];
    let offset = 0;
    for (const tensor of base.tensors) {
      const [, module] = /^model\.(layers\..*_proj)\.weight$/.exec(tensor.name) ?? [];
      if (module === undefined) {
        tensors.push(tensor);
        continue;
      }
      const [rows, columns] = tensor.shape as [number, number];
      const values = (n: number, deviation: number) =>
        Float32Array.from({ length: n }, () => deviation * random());
      const pair = {
        module,
        rank: RANK,
        a: values(RANK * columns, 1 / Math.sqrt(columns)),
        b: values(rows * RANK, 0.05),
      };
      pairs.push(pair);
      const weights = await readRows(tensor, files, 0, rows);
      merge(weights, pair, 2);
      const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
      writeSync(file, bytes);
      const data = { file: files.length, offset, bytes: bytes.length, dtype: 'f32', shape: tensor.shape };
      tensors.push({ name: tensor.name, shape: tensor.shape, encoding: 'f32', parts: { data } });
      offset += bytes.length;
    }
    closeSync(file);
    adapter = new AdapterFolder(pairs, { lora_alpha: 16, r: RANK });
    served = await load(base, [openAdapter('x', adapter.path, base)]);
    const { size, mtimeMs } = statSync(path);
    merged = await load({ ...base, tensors, files: [...base.files, { path, size, mtimeMs }] });
  }, 300_000);
  afterAll(async () => {
    await served?.close();
    await merged?.close();
    adapter?.[Symbol.dispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  const prompt = Int32Array.from({ length: 80 }, (_, i) => 300 + ((i * 7919) % 40_000));
  async function decode(runner: NativeRunner, name?: string): Promise<Float32Array[]> {
    runner.openSlot(0, GREEDY, prompt, NONE, name);
    const blockTable = Int32Array.from({ length: 16 }, (_, i) => i);
    const rows: Float32Array[] = [];
    for (let tokens = prompt, position = 0; rows.length < 6; ) {
      const entry = { slot: 0, tokens, position, blockTable, sample: true };
      const { logits } = await runner.stepWithLogits({ entries: [entry], copies: [] });
      rows.push(logits);
      position += tokens.length;
      // Both read the same text, whatever they would have written.
      tokens = Int32Array.of(500 + 31 * rows.length);
    }
    runner.closeSlot(0);
    return rows;
  }

  it('gives the logits of W + scale · B A, in the prompt and token by token', async () => {
    const [with_, expected, base] = [await decode(served, 'x'), await decode(merged), await decode(served)];
    const distance = (x: Float32Array, y: Float32Array) =>
      Math.hypot(...Array.from(x, (value, i) => value - (y[i] as number))) / Math.hypot(...y);
    expected.forEach((row, i) => {
      expect(distance(with_[i] as Float32Array, row)).toBeLessThan(2e-5);
      expect(distance(base[i] as Float32Array, row)).toBeGreaterThan(1e-2);
      const most = (logits: Float32Array) => logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
      expect(most(with_[i] as Float32Array)).toBe(most(row));
    });
  }, 120_000);
});
