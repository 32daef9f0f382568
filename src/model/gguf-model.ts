import { basename, resolve } from 'node:path';
import { readGgufSampling } from './generation-defaults.js';
import { type GgufTensor, READABLE_TYPES, readGguf } from './gguf.js';
import { GgufFields } from './gguf-fields.js';
import { readGgufTokenizer } from './gguf-tokenizer.js';
import type {
  Architecture,
  Encoding,
  ModelConfig,
  ModelManifest,
  RopeScaling,
  TensorEntry,
} from './manifest.js';
import { invalid, ReadableFile, unsupported } from './model-file.js';
import { NO_SCALING } from './rope-scaling.js';
import { sourceKey } from './source-key.js';
import { addTokenizerEos, tokenIdOf } from './special-ids.js';
import { selectTensors, sourceClass } from './weights.js';

const ARCHITECTURES: Record<string, Architecture> = { llama: 'llama', mistral: 'mistral', qwen2: 'qwen2' };

/** Tokens that end a turn where the metadata names only the one that ends a text. */
const TURN_ENDS = ['<|im_end|>', '<|eot_id|>', '<|endoftext|>', '<|end|>', '<end_of_turn>'];

/** Names within `blk.N.`, GGUF's to transformers'. */
const LAYER_NAMES: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

const OTHER_NAMES: Record<string, string> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

/**
 * Opens a GGUF file of the llama, mistral or qwen2 architecture.
 *
 * @throws FiligreeError saying what is wrong
 */
export function openGguf(filePath: string): ModelManifest {
  const path = resolve(filePath);
  const file = ReadableFile.open(path);
  try {
    const { metadata, tensors: raw } = readGguf(file);
    const g = new GgufFields(metadata, file.name);
    const problems: string[] = [];
    const tokenizer = readGgufTokenizer(g, problems);
    const config = readConfig(g, raw, file);
    const found = raw.filter((t) => t.name !== 'rope_freqs.weight').map((t) => entryOf(t, config, file));
    const tensors = selectTensors(config, null, found, problems);
    const tokens = g.strings('tokenizer.ggml.tokens').length;
    if (tokens > config.vocabSize)
      throw invalid(`${file.name}: ${tokens} tokens, but the embedding has ${config.vocabSize} rows`);
    config.bosTokenId =
      tokenizer.config.bosToken === null ? null : tokenIdOf(tokenizer, tokenizer.config.bosToken);
    addTokenizerEos(config, tokenizer, problems);
    addTurnEnds(config, tokenizer, g);
    const template = g.has('tokenizer.chat_template') ? g.string('tokenizer.chat_template') : null;
    if (template === null)
      problems.push('there is no chat template: chat requests will be refused, completions work');
    return {
      name: basename(path, '.gguf'),
      path,
      config,
      files: [file.info],
      tensors,
      tokenizer,
      chatTemplate: template,
      generation: readGgufSampling(metadata, problems),
      sourceKey: sourceKey(config, tensors, [file]),
      sourceClass: sourceClass(tensors),
      problems,
    };
  } finally {
    file.close();
  }
}

function readConfig(g: GgufFields, tensors: GgufTensor[], file: ReadableFile): ModelConfig {
  const name = g.string('general.architecture');
  const architecture = Object.hasOwn(ARCHITECTURES, name) ? ARCHITECTURES[name] : undefined;
  if (architecture === undefined) {
    throw unsupported(
      `${file.name}: architecture ${JSON.stringify(name.slice(0, 60))} is not supported; llama, mistral and qwen2 are`,
    );
  }
  const key = (suffix: string) => `${name}.${suffix}`;
  if (g.has(key('expert_count')) && g.integer(key('expert_count'), 0, 1 << 20) > 0) {
    throw unsupported(`${file.name}: mixtures of experts are not supported`);
  }
  const embedding = tensors.find((t) => t.name === 'token_embd.weight');
  if (embedding?.shape.length !== 2)
    throw invalid(`${file.name}: tensor token_embd.weight is missing or no matrix`);
  const vocabSize = embedding.shape[0] as number;
  if (vocabSize > 1 << 24) throw invalid(`${file.name}: a vocabulary of ${vocabSize}; the file is damaged`);
  const hiddenSize = g.integer(key('embedding_length'), 2, 1 << 20);
  const numHeads = g.uniform(key('attention.head_count'), 1, 1 << 14);
  const numKvHeads = g.uniform(key('attention.head_count_kv'), 1, 1 << 14, numHeads);
  if (numHeads % numKvHeads !== 0)
    throw invalid(
      `${file.name}: ${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`,
    );
  const headDim = g.integer(key('attention.key_length'), 2, 1 << 14, hiddenSize / numHeads);
  if (headDim % 2 !== 0)
    throw invalid(`${file.name}: heads of ${headDim} columns; rotary positions need pairs`);
  for (const suffix of ['attention.value_length', 'rope.dimension_count']) {
    const value = g.integer(key(suffix), 1, 1 << 14, headDim);
    if (value !== headDim)
      throw unsupported(
        `${file.name}: ${key(suffix)} ${value} other than the head's ${headDim} is not supported`,
      );
  }
  const maxPositionEmbeddings = g.integer(key('context_length'), 1, 2 ** 28);
  const window = g.has(key('attention.sliding_window'))
    ? g.integer(key('attention.sliding_window'), 0, 2 ** 31 - 1)
    : 0;
  const biases = tensors.some((t) => /^blk\.\d+\.attn_q\.bias$/.test(t.name));
  return {
    architecture,
    hiddenSize,
    intermediateSize: g.uniform(key('feed_forward_length'), 1, 1 << 22),
    numLayers: g.integer(key('block_count'), 1, 4096),
    numHeads,
    numKvHeads,
    headDim,
    vocabSize,
    maxPositionEmbeddings,
    rmsNormEps: roundFloat(g.number(key('attention.layer_norm_rms_epsilon'), 1e-12, 1)),
    ropeTheta: g.number(key('rope.freq_base'), 1, 1e15, 10_000),
    ropeScaling: readScaling(g, key, tensors, file, headDim, maxPositionEmbeddings),
    slidingWindow: window > 0 && window < maxPositionEmbeddings ? window : null,
    tieWordEmbeddings: false,
    qkvBias: architecture === 'qwen2' || biases,
    bosTokenId: null,
    eosTokenIds: [],
  };
}

/** 9.999999747378752e-6 was written as 1e-5 and rounded to f32; the shortest decimal with that f32 is what was meant. */
const roundFloat = (value: number): number => Number(value.toPrecision(7));

/**
 * `rope_freqs.weight` holds divisors of the inverse frequencies (Llama 3's scaling, computed by the converter): the form
 * of longrope, with the same factors for short and long texts.
 */
function readScaling(
  g: GgufFields,
  key: (suffix: string) => string,
  tensors: GgufTensor[],
  file: ReadableFile,
  headDim: number,
  maxPositions: number,
): RopeScaling {
  const freqs = tensors.find((t) => t.name === 'rope_freqs.weight');
  if (freqs !== undefined) {
    if (freqs.type !== 'f32' || freqs.shape.length !== 1 || freqs.shape[0] !== headDim / 2) {
      throw invalid(`${file.name}: rope_freqs.weight must be ${headDim / 2} f32 numbers`);
    }
    const bytes = file.read(freqs.offset, freqs.bytes);
    const factors = Array.from({ length: headDim / 2 }, (_, i) => bytes.readFloatLE(4 * i));
    if (!factors.every((f) => f > 0 && Number.isFinite(f)))
      throw invalid(`${file.name}: rope_freqs.weight holds a factor that is not positive`);
    return {
      kind: 'longrope',
      factor: 1,
      originalMaxPosition: maxPositions,
      attentionFactor: 1,
      shortFactor: factors,
      longFactor: factors,
    };
  }
  const type = g.string(key('rope.scaling.type'), 'none');
  const factor =
    g.number(key('rope.scaling.factor'), 0, 1e6, g.number(key('rope.scale_linear'), 0, 1e6, 1)) || 1;
  if (type === 'linear' || (type === 'none' && g.has(key('rope.scale_linear')) && factor !== 1))
    return { kind: 'linear', factor };
  if (type === 'none') return NO_SCALING;
  if (type === 'yarn') {
    return {
      kind: 'yarn',
      factor,
      originalMaxPosition: g.integer(key('rope.scaling.original_context_length'), 1, 2 ** 28),
      attentionFactor:
        g.number(key('rope.scaling.attn_factor'), 1e-6, 1e6, 1) *
        (factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1),
      betaFast: g.number(key('rope.scaling.yarn_beta_fast'), 1e-6, 1e6, 32),
      betaSlow: g.number(key('rope.scaling.yarn_beta_slow'), 1e-6, 1e6, 1),
    };
  }
  throw unsupported(
    `${file.name}: rotary scaling of kind ${JSON.stringify(type.slice(0, 40))} is not supported in GGUF (linear, yarn and rope_freqs are)`,
  );
}

function entryOf(tensor: GgufTensor, config: ModelConfig, file: ReadableFile): TensorEntry {
  const name = canonicalName(tensor.name);
  if (!READABLE_TYPES.has(tensor.type)) {
    throw unsupported(
      `${file.name}: tensor ${tensor.name} is of type ${tensor.type.toUpperCase()}, which is not read; ` +
        `${[...READABLE_TYPES].join(', ').toUpperCase()} are. Requantize it, for example to Q4_K_M`,
    );
  }
  const { offset, bytes, type, shape } = tensor;
  const entry: TensorEntry = {
    name,
    shape,
    encoding: type as Encoding,
    parts: { data: { file: 0, offset, bytes, dtype: type, shape } },
  };
  // The converter interleaves q and k rows for ggml's rotation of neighbouring pairs; Qwen2's graph rotates halves.
  const permuted =
    config.architecture !== 'qwen2' ? /self_attn\.([qk])_proj\.(weight|bias)$/.exec(name) : null;
  if (permuted === null) return entry;
  if (permuted[2] === 'bias')
    throw unsupported(
      `${file.name}: biases of a llama model's query and key are not supported in GGUF; use its Hugging Face folder`,
    );
  return { ...entry, permutedHeads: permuted[1] === 'q' ? config.numHeads : config.numKvHeads };
}

function canonicalName(name: string): string {
  const match = /^blk\.(\d{1,6})\.([a-z_]+)\.(weight|bias)$/.exec(name);
  const layer = match === null ? undefined : LAYER_NAMES[match[2] as string];
  if (match !== null && layer !== undefined) return `model.layers.${Number(match[1])}.${layer}.${match[3]}`;
  return OTHER_NAMES[name] ?? name;
}

/** A GGUF names one end-of-text token; a chat model also ends its turns by others it marks as control. */
function addTurnEnds(config: ModelConfig, tokenizer: ModelManifest['tokenizer'], g: GgufFields): void {
  const types = g.numbers('tokenizer.ggml.token_type', g.strings('tokenizer.ggml.tokens').length);
  for (const text of TURN_ENDS) {
    const id = tokenIdOf(tokenizer, text);
    if (id !== null && types?.[id] === 3 && !config.eosTokenIds.includes(id)) config.eosTokenIds.push(id);
  }
  for (const key of ['tokenizer.ggml.eot_token_id', 'tokenizer.ggml.eom_token_id']) {
    const id = g.has(key) ? g.integer(key, 0, 2 ** 32 - 1) : -1;
    if (id >= 0 && id < config.vocabSize && !config.eosTokenIds.includes(id)) config.eosTokenIds.push(id);
  }
}
