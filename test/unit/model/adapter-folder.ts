import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { safetensors } from './folder.js';

type Json = Record<string, unknown>;

export interface Pair {
  /** `layers.0.self_attn.q_proj` */
  module: string;
  /** [rank, columns] */
  a: Float32Array;
  /** [rows, rank] */
  b: Float32Array;
  rank: number;
}

/** f32 values as safetensors stores them under `dtype`, rounded to the nearest; f16 from normal numbers only. */
function encode(values: Float32Array, dtype: 'F32' | 'F16' | 'BF16'): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = Uint16Array.from(bits, (u) => {
    if (dtype === 'BF16') return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
    const magnitude = u & 0x7fffffff;
    if (magnitude < 0x38800000) return (u >>> 16) & 0x8000;
    const r = magnitude - 0x38000000;
    return ((u >>> 16) & 0x8000) | ((r + 0xfff + ((r >>> 13) & 1)) >>> 13);
  });
  return new Uint8Array(halves.buffer);
}

/** What is left of a value after `encode`. */
export function rounded(values: Float32Array, dtype: 'F32' | 'F16' | 'BF16'): Float32Array {
  if (dtype === 'F32') return values;
  const halves = new Uint16Array(encode(values, dtype).buffer);
  return Float32Array.from(halves, (h) => {
    if (dtype === 'BF16') return new Float32Array(Uint32Array.of(h << 16).buffer)[0] as number;
    const exponent = (h >> 10) & 31;
    const sign = h & 0x8000 ? -1 : 1;
    return exponent === 0 ? 0 : sign * 2 ** (exponent - 15) * (1 + (h & 1023) / 1024);
  });
}

/** An adapter as PEFT saves one, in a folder that a test may spoil. */
export class AdapterFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'filigree-adapter-'));
  private config: Json;

  constructor(pairs: readonly Pair[], config: Json = {}, dtype: 'F32' | 'F16' | 'BF16' = 'F32') {
    this.config = {
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'tiny',
      bias: 'none',
      fan_in_fan_out: false,
      init_lora_weights: true,
      lora_alpha: 16,
      lora_dropout: 0.05,
      modules_to_save: null,
      r: pairs[0]?.rank ?? 8,
      rank_pattern: {},
      alpha_pattern: {},
      target_modules: [...new Set(pairs.map(({ module }) => module.split('.').at(-1)))],
      use_dora: false,
      use_rslora: false,
      ...config,
    };
    this.edit({});
    const tensors: Parameters<typeof safetensors>[0] = {};
    for (const { module, a, b, rank } of pairs) {
      const name = `base_model.model.model.${module}`;
      tensors[`${name}.lora_A.weight`] = { dtype, shape: [rank, a.length / rank], bytes: encode(a, dtype) };
      tensors[`${name}.lora_B.weight`] = { dtype, shape: [b.length / rank, rank], bytes: encode(b, dtype) };
    }
    this.write(safetensors(tensors));
  }

  edit(changes: Json): this {
    this.config = { ...this.config, ...changes };
    writeFileSync(join(this.path, 'adapter_config.json'), JSON.stringify(this.config));
    return this;
  }

  write(weights: Uint8Array, name = 'adapter_model.safetensors'): this {
    writeFileSync(join(this.path, name), weights);
    return this;
  }

  remove(name: string): this {
    rmSync(join(this.path, name));
    return this;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** w + scale · b a, with sums in double. */
export function merge(w: Float32Array, { a, b, rank }: Pair, scale: number): void {
  const columns = a.length / rank;
  for (let row = 0; row < b.length / rank; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let i = 0; i < rank; i++)
        sum += (b[row * rank + i] as number) * (a[i * columns + column] as number);
      w[row * columns + column] = (w[row * columns + column] as number) + scale * sum;
    }
  }
}
