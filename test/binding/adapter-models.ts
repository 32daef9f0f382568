import { afterAll } from 'vitest';
import { type ModelManifest, openModel } from '../../src/model/index.js';
import { denseModel, noise, TINY } from '../compress/tiny.js';
import type { Pair } from '../unit/model/adapter-folder.js';

const folders: Disposable[] = [];
afterAll(() => {
  for (const folder of folders) folder[Symbol.dispose]();
});
/** Removed when the tests of the file are done. */
export const kept = <T extends Disposable>(folder: T): T => {
  folders.push(folder);
  return folder;
};

export type Shape = typeof TINY;
/** Neither heads nor the inner width fill panels of 16 rows. */
export const ODD: Shape = { hidden: 36, intermediate: 70, layers: 2, heads: 3, kv: 1, headDim: 12 };

export const MODULES = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
];

export function sizeOf(module: string, s: Shape): [rows: number, columns: number] {
  const q = s.heads * s.headDim;
  const kv = s.kv * s.headDim;
  const sizes: Record<string, [number, number]> = {
    q_proj: [q, s.hidden],
    k_proj: [kv, s.hidden],
    v_proj: [kv, s.hidden],
    o_proj: [s.hidden, q],
    gate_proj: [s.intermediate, s.hidden],
    up_proj: [s.intermediate, s.hidden],
    down_proj: [s.hidden, s.intermediate],
  };
  return sizes[module.split('.').at(-1) as string] as [number, number];
}

/** Random A and B, large enough that an adapter left out or misplaced shows. */
export function pairsOf(
  modules: string[],
  seed: number,
  s: Shape,
  rank: (module: string) => number = () => 4,
): Pair[] {
  const random = noise(seed);
  const pairs: Pair[] = [];
  for (let l = 0; l < s.layers; l++) {
    for (const name of modules) {
      const module = `layers.${l}.${name}`;
      const [rows, columns] = sizeOf(name, s);
      const r = rank(module);
      const values = (n: number, deviation: number) =>
        Float32Array.from({ length: n }, () => deviation * random());
      pairs.push({
        module,
        rank: r,
        a: values(r * columns, 1 / Math.sqrt(columns)),
        b: values(rows * r, 0.2),
      });
    }
  }
  return pairs;
}

export const tokens = (seed: number, length: number) =>
  Int32Array.from({ length }, (_, i) => (seed * 31 + i * 17 + ((i * i) % 7)) % 40);

export async function tiny(
  shape: Shape = TINY,
  spoil?: Parameters<typeof denseModel>[0],
): Promise<ModelManifest> {
  return await openModel(kept(denseModel(spoil, {}, shape)).path);
}
