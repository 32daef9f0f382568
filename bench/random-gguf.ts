import { randomFillSync } from 'node:crypto';
import { closeSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { FiligreeError } from '../src/errors.js';
import { randomModel } from './shapes.js';

/** ggml types a random file is written in: type number, elements and bytes of a block, where its f16 scales stand. */
const TYPES = {
  f32: { id: 0, elements: 1, bytes: 4, scales: [] },
  f16: { id: 1, elements: 1, bytes: 2, scales: [] },
  bf16: { id: 30, elements: 1, bytes: 2, scales: [] },
  q4_0: { id: 2, elements: 32, bytes: 18, scales: [0] },
  q8_0: { id: 8, elements: 32, bytes: 34, scales: [0] },
  q4_k: { id: 12, elements: 256, bytes: 144, scales: [0, 2] },
} as const;

export type RandomGgufType = keyof typeof TYPES;
export const randomGgufTypes = Object.keys(TYPES) as RandomGgufType[];

const ALIGNMENT = 32;
const SCALE = 0x1c00; // 2^-8 in f16: weights of about a trained model's size, none subnormal

type Value = { type: number; bytes: Buffer };
const number = (size: number, write: (b: Buffer) => void) => {
  const bytes = Buffer.alloc(size);
  write(bytes);
  return bytes;
};
const u32 = (v: number) => number(4, (b) => b.writeUInt32LE(v));
const u64 = (v: number) => number(8, (b) => b.writeBigUInt64LE(BigInt(v)));
const f32 = (v: number) => number(4, (b) => b.writeFloatLE(v));
const text = (v: string) => Buffer.concat([u64(Buffer.byteLength(v)), Buffer.from(v)]);
const U32 = (v: number): Value => ({ type: 4, bytes: u32(v) });
const I32 = (v: number) => number(4, (b) => b.writeInt32LE(v));
const F32 = (v: number): Value => ({ type: 6, bytes: f32(v) });
const TEXT = (v: string): Value => ({ type: 8, bytes: text(v) });
const LIST = (type: number, items: Buffer[]): Value => ({
  type: 9,
  bytes: Buffer.concat([u32(type), u64(items.length), ...items]),
});

/** A SentencePiece-like vocabulary that any engine can load: control tokens, 256 bytes, made-up words. */
function vocabulary(size: number): Record<string, Value> {
  const tokens = Array.from({ length: size }, (_, id) => {
    if (id < 3) return ['<unk>', '<s>', '</s>'][id]!;
    if (id < 259) return `<0x${(id - 3).toString(16).toUpperCase().padStart(2, '0')}>`;
    return `▁w${id}`;
  });
  const kind = (id: number) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1);
  return {
    'tokenizer.ggml.model': TEXT('llama'),
    'tokenizer.ggml.tokens': LIST(8, tokens.map(text)),
    'tokenizer.ggml.scores': LIST(
      6,
      tokens.map((_, id) => f32(-id)),
    ),
    'tokenizer.ggml.token_type': LIST(
      5,
      tokens.map((_, id) => I32(kind(id))),
    ),
    'tokenizer.ggml.bos_token_id': U32(1),
    'tokenizer.ggml.eos_token_id': U32(2),
  };
}

interface Tensor {
  name: string;
  rows: number;
  cols: number;
  type: RandomGgufType;
}

function tensorsOf(
  shape: string,
  type: RandomGgufType,
): { tensors: Tensor[]; metadata: Record<string, Value> } {
  const { config } = randomModel(shape, 0);
  const { hiddenSize: h, intermediateSize: f, headDim, numHeads, numKvHeads, numLayers, vocabSize } = config;
  const tensors: Tensor[] = [];
  const add = (name: string, rows: number, cols: number, as: RandomGgufType = type) =>
    tensors.push({ name, rows, cols, type: as });
  add('token_embd.weight', vocabSize, h);
  for (let i = 0; i < numLayers; ++i) {
    add(`blk.${i}.attn_norm.weight`, 1, h, 'f32');
    add(`blk.${i}.attn_q.weight`, numHeads * headDim, h);
    add(`blk.${i}.attn_k.weight`, numKvHeads * headDim, h);
    add(`blk.${i}.attn_v.weight`, numKvHeads * headDim, h);
    add(`blk.${i}.attn_output.weight`, h, numHeads * headDim);
    add(`blk.${i}.ffn_norm.weight`, 1, h, 'f32');
    add(`blk.${i}.ffn_gate.weight`, f, h);
    add(`blk.${i}.ffn_up.weight`, f, h);
    add(`blk.${i}.ffn_down.weight`, h, f);
  }
  add('output_norm.weight', 1, h, 'f32');
  if (!config.tieWordEmbeddings) add('output.weight', vocabSize, h);
  for (const tensor of tensors)
    if (tensor.cols % TYPES[tensor.type].elements !== 0)
      throw new FiligreeError(
        'usage',
        `shape ${shape} cannot be written as ${type}: ${tensor.cols} columns are no whole number of blocks of ${TYPES[tensor.type].elements}`,
      );
  return {
    tensors,
    metadata: {
      'general.architecture': TEXT('llama'),
      'general.name': TEXT(`${shape} random ${type}`),
      'llama.context_length': U32(config.maxPositionEmbeddings),
      'llama.embedding_length': U32(h),
      'llama.block_count': U32(numLayers),
      'llama.feed_forward_length': U32(f),
      'llama.attention.head_count': U32(numHeads),
      'llama.attention.head_count_kv': U32(numKvHeads),
      'llama.attention.layer_norm_rms_epsilon': F32(config.rmsNormEps),
      'llama.rope.dimension_count': U32(headDim),
      'llama.rope.freq_base': F32(config.ropeTheta),
      'llama.vocab_size': U32(vocabSize),
      ...vocabulary(vocabSize),
    },
  };
}

/** Random bytes that are valid blocks of `type`, a share `zeros` of the weights 0: a tile that a tensor's data repeats. */
function tile(type: RandomGgufType, zeros: number): Buffer {
  const { bytes, scales } = TYPES[type];
  const buffer = Buffer.alloc(bytes * Math.floor((4 << 20) / bytes));
  if (type === 'f32') {
    for (let at = 0; at < buffer.length; at += 4) buffer.writeFloatLE((Math.random() - 0.5) * 0.06, at);
  } else if (type === 'f16' || type === 'bf16') {
    const exponent = type === 'f16' ? 0x2000 : 0x3c00; // magnitudes about 2^-7
    for (let at = 0; at < buffer.length; at += 2)
      buffer.writeUInt16LE(exponent | (Math.random() * 0x100) | (Math.random() < 0.5 ? 0x8000 : 0), at);
  } else {
    randomFillSync(buffer);
    if (zeros > 0) for (let at = 0; at < buffer.length; ++at) if (Math.random() < zeros) buffer[at] = 0;
    for (let at = 0; at < buffer.length; at += bytes)
      for (const scale of scales) buffer.writeUInt16LE(SCALE, at + scale);
  }
  return buffer;
}

/**
 * Writes a GGUF of a known shape with random weights, so that peers can be timed on the same shape without a
 * checkpoint. The values are valid and of ordinary size, and mean nothing. `zeros`: share of zeros in the layers' matrices, for
 * q8_0, whose codes are bytes.
 */
export function writeRandomGguf(path: string, shape: string, type: RandomGgufType, zeros = 0): void {
  if (zeros > 0 && type !== 'q8_0')
    throw new FiligreeError('usage', `zeros are written as q8_0, not as ${type}`);
  const { tensors, metadata } = tensorsOf(shape, type);
  const aligned = (n: number) => Math.ceil(n / ALIGNMENT) * ALIGNMENT;
  const size = (t: Tensor) => ((t.rows * t.cols) / TYPES[t.type].elements) * TYPES[t.type].bytes;
  let offset = 0;
  const infos = tensors.map((t) => {
    const dims = t.rows === 1 ? [u32(1), u64(t.cols)] : [u32(2), u64(t.cols), u64(t.rows)];
    const info = Buffer.concat([text(t.name), ...dims, u32(TYPES[t.type].id), u64(offset)]);
    offset += aligned(size(t));
    return info;
  });
  const header = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.length),
    u64(Object.keys(metadata).length),
    ...Object.entries(metadata).flatMap(([key, value]) => [text(key), u32(value.type), value.bytes]),
    ...infos,
  ]);
  mkdirSync(dirname(path), { recursive: true });
  const partial = `${path}.partial`;
  const file = openSync(partial, 'w');
  try {
    writeSync(file, Buffer.concat([header, Buffer.alloc(aligned(header.length) - header.length)]));
    const tiles = new Map<string, Buffer>();
    for (const t of tensors) {
      const share = t.name.startsWith('blk.') && t.rows > 1 ? zeros : 0;
      const key = `${t.type} ${share}`;
      const from = tiles.get(key) ?? tile(t.type, share);
      tiles.set(key, from);
      const bytes = size(t);
      for (let at = 0; at < bytes; at += from.length)
        writeSync(file, from, 0, Math.min(from.length, bytes - at));
      writeSync(file, Buffer.alloc(aligned(bytes) - bytes));
    }
  } finally {
    closeSync(file);
  }
  renameSync(partial, path);
}
