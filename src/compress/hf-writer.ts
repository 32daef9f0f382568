import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ModelConfig, ModelManifest } from '../model/manifest.js';
import type { Recipe } from './options.js';

const CLASSES = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
} as const;

/** config.json's rope_scaling, or null. */
function ropeScaling({ ropeScaling: s }: ModelConfig): Record<string, unknown> | null {
  if (s.kind === 'none') return null;
  return {
    rope_type: s.kind,
    factor: s.factor,
    ...(s.lowFreqFactor !== undefined && { low_freq_factor: s.lowFreqFactor }),
    ...(s.highFreqFactor !== undefined && { high_freq_factor: s.highFreqFactor }),
    ...(s.originalMaxPosition !== undefined && { original_max_position_embeddings: s.originalMaxPosition }),
    ...(s.attentionFactor !== undefined && { attention_factor: s.attentionFactor }),
    ...(s.betaFast !== undefined && { beta_fast: s.betaFast }),
    ...(s.betaSlow !== undefined && { beta_slow: s.betaSlow }),
    ...(s.shortFactor !== undefined && { short_factor: s.shortFactor }),
    ...(s.longFactor !== undefined && { long_factor: s.longFactor }),
  };
}

/** The configuration as transformers spells it; for a source that has no config.json. */
function hfConfig(c: ModelConfig): Record<string, unknown> {
  return {
    architectures: [CLASSES[c.architecture]],
    model_type: c.architecture,
    hidden_size: c.hiddenSize,
    intermediate_size: c.intermediateSize,
    num_hidden_layers: c.numLayers,
    num_attention_heads: c.numHeads,
    num_key_value_heads: c.numKvHeads,
    head_dim: c.headDim,
    vocab_size: c.vocabSize,
    max_position_embeddings: c.maxPositionEmbeddings,
    rms_norm_eps: c.rmsNormEps,
    rope_theta: c.ropeTheta,
    rope_scaling: ropeScaling(c),
    hidden_act: 'silu',
    tie_word_embeddings: c.tieWordEmbeddings,
    ...(c.architecture === 'qwen2'
      ? {
          use_sliding_window: c.slidingWindow !== null,
          max_window_layers: c.slidingWindow === null ? c.numLayers : 0,
        }
      : { attention_bias: c.qkvBias, mlp_bias: false }),
    sliding_window: c.slidingWindow,
    bos_token_id: c.bosTokenId,
    eos_token_id: c.eosTokenIds.length === 1 ? c.eosTokenIds[0] : c.eosTokenIds,
  };
}

/** One scheme of compressed-tensors' config_groups. */
function scheme(targets: string[], bits: 4 | 8, group: number) {
  return {
    targets,
    weights: {
      num_bits: bits,
      type: 'int',
      symmetric: true,
      strategy: bits === 8 ? 'channel' : 'group',
      ...(bits === 4 && { group_size: group }),
    },
    input_activations: { num_bits: 8, type: 'int', symmetric: true, strategy: 'token', dynamic: true },
  };
}

const BITS = { i8: 8, i4: 4 } as const;

export interface Written {
  recipe: Recipe;
  /** Share of zeros of the pruned matrices. */
  sparsity: number;
  /** Names of linear modules that are neither pruned nor quantized. */
  skipped: string[];
}

/**
 * quantization_config: how the tensors are stored (models/FORMAT.md). Without integer codes it holds the sparsity alone: the
 * compressed-tensors library takes any other key for a quantization, which would need groups.
 */
export function quantizationConfig({ recipe, sparsity, skipped }: Written): Record<string, unknown> {
  const groups: Record<string, unknown> = {};
  if (recipe.quantize !== 'none') groups.group_0 = scheme(['Linear'], BITS[recipe.quantize], recipe.group);
  if (recipe.embeddings !== 'none')
    groups.group_1 = {
      ...scheme(['Embedding', 're:.*lm_head'], BITS[recipe.embeddings], recipe.group),
      input_activations: null,
    };
  const quantized = Object.keys(groups).length > 0;
  const format =
    recipe.quantize === 'i4' || (!groups.group_0 && recipe.embeddings === 'i4')
      ? 'pack-quantized'
      : 'int-quantized';
  return {
    quant_method: 'compressed-tensors',
    ...(quantized && {
      format,
      quantization_status: 'compressed',
      config_groups: groups,
      ignore: [...skipped, ...(recipe.embeddings === 'none' ? ['lm_head'] : [])],
    }),
    sparsity_config: {
      format: 'sparse-bitmask',
      global_sparsity: sparsity,
      registry_requires_subclass: false,
      sparsity_structure: recipe.pattern,
      targets: ['Linear'],
      ignore: [...skipped, 'lm_head'],
    },
  };
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

/**
 * The small files of a Hugging Face folder: configuration (the source's own, where it has one), tokenizer, template.
 *
 * @returns file name to text, config.json last
 */
export function folderFiles(manifest: ModelManifest, dtype: string, written: Written): Map<string, string> {
  const files = new Map<string, string>();
  const source = (name: string): string | null => {
    const path = join(manifest.path, name);
    return existsSync(path) ? readFileSync(path, 'utf8') : null;
  };
  const { tokenizer } = manifest;
  files.set('tokenizer.json', json(tokenizer.tokenizerJson));
  const t = tokenizer.config;
  files.set(
    'tokenizer_config.json',
    json({
      tokenizer_class: 'PreTrainedTokenizerFast',
      ...tokenizer.tokenizerConfigJson,
      bos_token: t.bosToken,
      eos_token: t.eosToken,
      unk_token: t.unkToken,
      pad_token: t.padToken,
      add_bos_token: t.addBos,
      add_eos_token: t.addEos,
      clean_up_tokenization_spaces: t.cleanUpTokenizationSpaces,
    }),
  );
  if (manifest.chatTemplate !== null) files.set('chat_template.jinja', manifest.chatTemplate);
  const generation = source('generation_config.json');
  if (generation !== null) files.set('generation_config.json', generation);
  const original = source('config.json');
  const config: Record<string, unknown> =
    original === null ? hfConfig(manifest.config) : (JSON.parse(original) as Record<string, unknown>);
  delete config.compression_config;
  files.set(
    'config.json',
    json({
      ...config,
      tie_word_embeddings: manifest.config.tieWordEmbeddings,
      dtype,
      torch_dtype: dtype,
      quantization_config: quantizationConfig(written),
    }),
  );
  return files;
}
