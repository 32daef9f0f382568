import { rmSync } from 'node:fs';
import { ModelFolder, safetensors } from '../unit/model/folder.js';

/** Reproducible noise of deviation about 1. */
export function noise(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => (uniform() + uniform() + uniform() + uniform() - 2) * 1.73;
}

export const TINY = { hidden: 64, intermediate: 160, layers: 3, heads: 4, kv: 2, headDim: 16 };

/** A dense f32 Llama of three layers with the fixture's tokenizer; `spoil` may change a tensor's values. */
export function denseModel(
  spoil: (name: string, values: Float32Array) => void = () => {},
  config: Record<string, unknown> = {},
  shape: typeof TINY = TINY,
  vocabulary = 40,
): ModelFolder {
  const folder = new ModelFolder();
  const { hidden, intermediate, layers, heads, kv, headDim } = shape;
  const random = noise(7);
  const tensors: Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }> = {};
  const add = (name: string, shape: number[], value: () => number) => {
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value);
    spoil(name, values);
    tensors[name] = { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer) };
  };
  const matrix = (name: string, rows: number, cols: number) =>
    add(name, [rows, cols], () => random() / Math.sqrt(cols));
  matrix('model.embed_tokens.weight', vocabulary, hidden);
  for (let l = 0; l < layers; l++) {
    const p = `model.layers.${l}`;
    add(`${p}.input_layernorm.weight`, [hidden], () => 1 + 0.1 * random());
    matrix(`${p}.self_attn.q_proj.weight`, heads * headDim, hidden);
    matrix(`${p}.self_attn.k_proj.weight`, kv * headDim, hidden);
    matrix(`${p}.self_attn.v_proj.weight`, kv * headDim, hidden);
    matrix(`${p}.self_attn.o_proj.weight`, hidden, heads * headDim);
    add(`${p}.post_attention_layernorm.weight`, [hidden], () => 1 + 0.1 * random());
    matrix(`${p}.mlp.gate_proj.weight`, intermediate, hidden);
    matrix(`${p}.mlp.up_proj.weight`, intermediate, hidden);
    matrix(`${p}.mlp.down_proj.weight`, hidden, intermediate);
  }
  add('model.norm.weight', [hidden], () => 1);
  rmSync(folder.file('model.safetensors.index.json'));
  rmSync(folder.file('model-00001-of-00002.safetensors'));
  rmSync(folder.file('model-00002-of-00002.safetensors'));
  folder.write('model.safetensors', safetensors(tensors));
  folder.edit('config.json', {
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kv,
    head_dim: headDim,
    vocab_size: vocabulary,
    tie_word_embeddings: true,
    attention_bias: false,
    quantization_config: undefined,
    compression_config: undefined,
    rope_scaling: undefined,
    ...config,
  });
  return folder;
}
