import { Fields, type JsonObject } from './fields.js';
import { type GenerationDefaults, readGenerationConfig } from './generation-defaults.js';
import type { Architecture, ModelConfig } from './manifest.js';
import { invalid, unsupported } from './model-file.js';
import { readRope } from './rope-scaling.js';

/** A model's config.json as checked, and what only reading the tensors can decide. */
export interface HfConfig {
  config: ModelConfig;
  /** null: the file does not say, so the tensors do. */
  tied: boolean | null;
  generation: GenerationDefaults;
  problems: string[];
}

const ARCHITECTURES: Record<string, Architecture> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
};

const MODEL_TYPES: Record<string, Architecture> = { llama: 'llama', mistral: 'mistral', qwen2: 'qwen2' };

/**
 * config.json of Llama, Mistral and Qwen2 models, defaults as transformers has them; generation_config.json adds the
 * ids that end a text and how its authors sample.
 *
 * @throws FiligreeError `model_invalid` naming the field, `model_unsupported` for what would be computed wrongly
 */
export function readHfConfig(json: JsonObject, generation: JsonObject | null): HfConfig {
  const c = new Fields(json, 'config.json');
  const architecture = readArchitecture(c);
  const act = c.string('hidden_act', 'silu');
  if (act !== 'silu' && act !== 'swish')
    throw unsupported(`config.json: hidden_act ${JSON.stringify(act)} is not supported, silu is`);
  if (c.boolean('mlp_bias', false)) throw unsupported('config.json: mlp_bias is not supported');
  const numLayers = c.integer('num_hidden_layers', 1, 4096);
  const hiddenSize = c.integer('hidden_size', 2, 1 << 20);
  const numHeads = c.integer('num_attention_heads', 1, 1 << 14);
  const numKvHeads = c.integer('num_key_value_heads', 1, 1 << 14, numHeads);
  if (numHeads % numKvHeads !== 0) {
    throw invalid(
      `config.json: ${numHeads} attention heads cannot share ${numKvHeads} key/value heads evenly`,
    );
  }
  if (!c.has('head_dim') && hiddenSize % numHeads !== 0) {
    throw invalid(
      `config.json: hidden_size ${hiddenSize} is not a multiple of ${numHeads} attention heads, and there is no head_dim`,
    );
  }
  const headDim = c.integer('head_dim', 2, 1 << 14, hiddenSize / numHeads);
  if (headDim % 2 !== 0)
    throw invalid(`config.json: head_dim ${headDim} is odd; rotary positions need pairs`);
  const maxPositionEmbeddings = c.integer('max_position_embeddings', 1, 2 ** 28);
  const vocabSize = c.integer('vocab_size', 1, 1 << 24);
  const rope = readRope(c, headDim, maxPositionEmbeddings);
  const problems: string[] = [];
  const inVocabulary = (id: number, key: string) => {
    if (id >= 0 && id < vocabSize) return true;
    if (id !== -1) problems.push(`${key} ${id} is outside the vocabulary of ${vocabSize} and was ignored`);
    return false;
  };
  const g = generation === null ? null : new Fields(generation, 'generation_config.json');
  const eos = [...(g?.ids('eos_token_id') ?? []), ...c.ids('eos_token_id')];
  const bos = c.ids('bos_token_id')[0];
  return {
    config: {
      architecture,
      hiddenSize,
      intermediateSize: c.integer('intermediate_size', 1, 1 << 22),
      numLayers,
      numHeads,
      numKvHeads,
      headDim,
      vocabSize,
      maxPositionEmbeddings,
      rmsNormEps: c.number('rms_norm_eps', 1e-12, 1, 1e-6),
      ropeTheta: rope.theta,
      ropeScaling: rope.scaling,
      slidingWindow: readWindow(c, architecture, numLayers, maxPositionEmbeddings),
      tieWordEmbeddings: false,
      qkvBias: architecture === 'qwen2' || c.boolean('attention_bias', false),
      bosTokenId: bos !== undefined && inVocabulary(bos, 'bos_token_id') ? bos : null,
      eosTokenIds: [...new Set(eos.filter((id) => inVocabulary(id, 'eos_token_id')))],
    },
    tied: c.has('tie_word_embeddings') ? c.boolean('tie_word_embeddings', false) : null,
    generation: readGenerationConfig(generation, problems),
    problems,
  };
}

function readArchitecture(c: Fields): Architecture {
  const list = c.get('architectures');
  const names = Array.isArray(list) ? list.filter((x): x is string => typeof x === 'string') : [];
  const type = c.has('model_type') ? c.string('model_type') : '';
  const found =
    names
      .map((name) => (Object.hasOwn(ARCHITECTURES, name) ? ARCHITECTURES[name] : undefined))
      .find((a) => a !== undefined) ??
    (names.length === 0 && Object.hasOwn(MODEL_TYPES, type) ? MODEL_TYPES[type] : undefined);
  if (found === undefined) {
    const what = names[0] ?? type;
    throw unsupported(
      `config.json: architecture ${JSON.stringify(what.slice(0, 80))} is not supported; ${Object.keys(ARCHITECTURES).join(', ')} are`,
    );
  }
  return found;
}

/** The window that every layer uses, or null. Layers that differ would need a cache of their own each. */
function readWindow(
  c: Fields,
  architecture: Architecture,
  layers: number,
  maxPositions: number,
): number | null {
  const window = c.has('sliding_window') ? c.integer('sliding_window', 1, 2 ** 31 - 1) : null;
  const types = c.get('layer_types');
  if (Array.isArray(types)) {
    const sliding = types.filter((t) => t === 'sliding_attention').length;
    if (sliding === 0) return null;
    if (sliding !== layers || window === null) {
      throw unsupported(
        'config.json: layers of which only some slide their attention window are not supported',
      );
    }
  } else if (architecture === 'llama') {
    return null;
  } else if (architecture === 'qwen2') {
    if (!c.boolean('use_sliding_window', false)) return null;
    // Layers from max_window_layers on slide.
    const first = c.integer('max_window_layers', 0, 1 << 20, 28);
    if (first >= layers) return null;
    if (first > 0)
      throw unsupported(
        `config.json: max_window_layers ${first} of ${layers} layers: mixed windows are not supported`,
      );
  }
  return window !== null && window < maxPositions ? window : null;
}
