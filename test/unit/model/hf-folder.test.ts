import { writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FiligreeError } from '../../../src/errors.js';
import { readHfConfig } from '../../../src/model/hf-config.js';
import { openModel } from '../../../src/model/index.js';
import { ReadableFile } from '../../../src/model/model-file.js';
import { readSafetensors } from '../../../src/model/safetensors.js';
import { ModelFolder } from './folder.js';

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 100,
  max_position_embeddings: 4096,
};
const configOf = (changes: Record<string, unknown>) => readHfConfig({ ...LLAMA, ...changes }, null).config;

/** Opens a spoiled copy of the tiny model and returns the complaint. */
async function complaint(spoil: (folder: ModelFolder) => void): Promise<FiligreeError> {
  const folder = new ModelFolder();
  try {
    spoil(folder);
    await openModel(folder.path);
  } catch (error) {
    expect(error).toBeInstanceOf(FiligreeError);
    return error as FiligreeError;
  } finally {
    folder[Symbol.dispose]();
  }
  throw new Error('the model opened');
}

describe('config.json', () => {
  it('has the defaults of transformers', () => {
    expect(configOf({})).toMatchObject({
      numKvHeads: 4,
      headDim: 16,
      rmsNormEps: 1e-6,
      ropeTheta: 10000,
      ropeScaling: { kind: 'none' },
      slidingWindow: null,
      qkvBias: false,
      eosTokenIds: [],
      bosTokenId: null,
    });
  });

  it('reads every kind of rotary scaling, in the old spelling and the new', () => {
    const llama3 = {
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    };
    const expected = {
      kind: 'llama3',
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPosition: 8192,
    };
    expect(
      configOf({ rope_theta: 5e5, rope_scaling: { rope_type: 'llama3', ...llama3 } }).ropeScaling,
    ).toEqual(expected);
    const newer = configOf({ rope_parameters: { rope_theta: 5e5, rope_type: 'llama3', ...llama3 } });
    expect(newer.ropeScaling).toEqual(expected);
    expect(newer.ropeTheta).toBe(5e5);
    expect(configOf({ rope_parameters: { rope_theta: 1e6, rope_type: 'default' } })).toMatchObject({
      ropeTheta: 1e6,
      ropeScaling: { kind: 'none' },
    });
    expect(configOf({ rope_scaling: { type: 'linear', factor: 2.5 } }).ropeScaling).toEqual({
      kind: 'linear',
      factor: 2.5,
    });
    expect(configOf({ rope_scaling: { type: 'dynamic', factor: 2 } }).ropeScaling).toEqual({
      kind: 'dynamic',
      factor: 2,
      originalMaxPosition: 4096,
    });
    const yarn = configOf({
      rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 1024 },
    }).ropeScaling;
    expect(yarn).toMatchObject({
      kind: 'yarn',
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      originalMaxPosition: 1024,
    });
    expect(yarn.attentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    const factors = Array.from({ length: 8 }, (_, i) => i + 1);
    const long = configOf({
      original_max_position_embeddings: 1024,
      rope_scaling: { type: 'longrope', short_factor: factors, long_factor: factors },
    }).ropeScaling;
    expect(long).toMatchObject({ kind: 'longrope', factor: 4, shortFactor: factors });
    expect(long.attentionFactor).toBeCloseTo(Math.sqrt(1 + Math.log(4) / Math.log(1024)), 12);
  });

  it('knows when a window slides', () => {
    const mistral = { architectures: ['MistralForCausalLM'], num_key_value_heads: 2 };
    expect(configOf({ ...mistral, sliding_window: 1024 }).slidingWindow).toBe(1024);
    expect(configOf({ ...mistral, sliding_window: null }).slidingWindow).toBeNull();
    expect(configOf({ ...mistral, sliding_window: 1 << 20 }).slidingWindow).toBeNull();
    const qwen = { architectures: ['Qwen2ForCausalLM'], sliding_window: 1024 };
    expect(configOf({ ...qwen, use_sliding_window: false }).slidingWindow).toBeNull();
    expect(configOf({ ...qwen, use_sliding_window: true, max_window_layers: 2 }).slidingWindow).toBeNull();
    expect(configOf({ ...qwen, use_sliding_window: true, max_window_layers: 0 }).slidingWindow).toBe(1024);
    expect(() => configOf({ ...qwen, use_sliding_window: true, max_window_layers: 1 })).toThrow(
      /mixed windows/,
    );
    expect(configOf({ ...qwen, layer_types: ['full_attention', 'full_attention'] }).slidingWindow).toBeNull();
    expect(() => configOf({ ...qwen, layer_types: ['full_attention', 'sliding_attention'] })).toThrow(
      /only some/,
    );
  });

  it('joins the ids that end a text', () => {
    const { config, problems } = readHfConfig(
      { ...LLAMA, eos_token_id: 2, bos_token_id: 1 },
      { eos_token_id: [7, 2, 500] },
    );
    expect(config.eosTokenIds).toEqual([7, 2]);
    expect(config.bosTokenId).toBe(1);
    expect(problems).toEqual(['eos_token_id 500 is outside the vocabulary of 100 and was ignored']);
  });

  it('takes the sampling that generation_config.json recommends, and ignores what cannot be', () => {
    const advice = { do_sample: true, temperature: 0.6, top_p: 0.9, top_k: 20, repetition_penalty: 1.05 };
    expect(readHfConfig(LLAMA, advice).generation).toEqual({
      temperature: 0.6,
      topP: 0.9,
      topK: 20,
      repetitionPenalty: 1.05,
    });
    expect(readHfConfig(LLAMA, { ...advice, do_sample: false }).generation).toEqual({});
    const { generation, problems } = readHfConfig(LLAMA, {
      temperature: 7,
      top_k: 1.5,
      min_p: 'x',
      top_p: 0.8,
    });
    expect(generation).toEqual({ topP: 0.8 });
    expect(problems).toEqual([
      'generation_config.json: temperature must be a number from 0 to 2 and was ignored',
      'generation_config.json: top_k must be an integer from -1 to 2147483647 and was ignored',
      'generation_config.json: min_p must be a number from 0 to 1 and was ignored',
    ]);
  });

  it.each([
    [{ architectures: ['GemmaForCausalLM'] }, 'model_unsupported', /GemmaForCausalLM/],
    [{ hidden_size: -1 }, 'model_invalid', /hidden_size/],
    [{ hidden_size: '64' }, 'model_invalid', /hidden_size/],
    [{ num_attention_heads: 0 }, 'model_invalid', /num_attention_heads/],
    [{ num_key_value_heads: 3 }, 'model_invalid', /share 3 key\/value heads/],
    [{ num_attention_heads: 5 }, 'model_invalid', /not a multiple of 5/],
    [{ head_dim: 15 }, 'model_invalid', /odd/],
    [{ num_hidden_layers: 1e9 }, 'model_invalid', /num_hidden_layers/],
    [{ vocab_size: 1.5 }, 'model_invalid', /vocab_size/],
    [{ rms_norm_eps: 0 }, 'model_invalid', /rms_norm_eps/],
    [{ hidden_act: 'gelu' }, 'model_unsupported', /gelu/],
    [{ mlp_bias: true }, 'model_unsupported', /mlp_bias/],
    [{ rope_scaling: { type: 'mrope' } }, 'model_unsupported', /mrope/],
    [{ rope_scaling: { type: 'linear' } }, 'model_invalid', /factor/],
    [
      {
        rope_scaling: {
          type: 'longrope',
          short_factor: [1],
          long_factor: [1],
          original_max_position_embeddings: 9,
        },
      },
      'model_invalid',
      /short_factor/,
    ],
    [
      {
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 4,
          high_freq_factor: 1,
          original_max_position_embeddings: 9,
        },
      },
      'model_invalid',
      /high_freq_factor/,
    ],
    [{ partial_rotary_factor: 0.5 }, 'model_unsupported', /partial_rotary_factor/],
    [{ eos_token_id: 'x' }, 'model_invalid', /eos_token_id/],
  ])('refuses %j', (changes, code, message) => {
    expect(() => configOf(changes)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

describe('a Hugging Face folder', () => {
  it('opens', async () => {
    using folder = new ModelFolder();
    const manifest = await openModel(folder.path);
    expect(manifest.config).toMatchObject({ tieWordEmbeddings: false, eosTokenIds: [0], numKvHeads: 2 });
    expect(manifest.chatTemplate).toContain('<|user|>');
    expect(manifest.sourceKey).toMatch(/^[0-9a-f]{64}$/);
  });

  it('has a key that follows the content and not the place', async () => {
    using a = new ModelFolder();
    using b = new ModelFolder();
    const key = async (folder: ModelFolder) => (await openModel(folder.path)).sourceKey;
    const before = await key(a);
    expect(await key(b)).toBe(before);
    b.edit('config.json', { rope_theta: 5000 });
    expect(await key(b)).not.toBe(before);
    const shard = ReadableFile.open(a.file('model-00001-of-00002.safetensors'));
    const bytes = shard.read(0, shard.size);
    shard.close();
    bytes[bytes.length - 5] = (bytes[bytes.length - 5] as number) ^ 1;
    writeFileSync(a.file('model-00001-of-00002.safetensors'), bytes);
    expect(await key(a)).not.toBe(before);
  });

  it.each<[string, (f: ModelFolder) => void, string, RegExp]>([
    ['no config', (f) => f.remove('config.json'), 'model_missing', /neither config.json/],
    [
      'config that is no JSON',
      (f) => f.write('config.json', '{"a":'),
      'model_invalid',
      /config.json is not valid JSON/,
    ],
    [
      'config that is no UTF-8',
      (f) => f.write('config.json', Buffer.from([0x7b, 0xff, 0x7d])),
      'model_invalid',
      /not valid UTF-8/,
    ],
    ['config that is a list', (f) => f.write('config.json', '[]'), 'model_invalid', /JSON object/],
    [
      'more layers than there are',
      (f) => f.edit('config.json', { num_hidden_layers: 2 }),
      'model_invalid',
      /9 tensors are missing/,
    ],
    [
      'far more layers',
      (f) => f.edit('config.json', { num_hidden_layers: 4000 }),
      'model_invalid',
      /claims 4000 layers/,
    ],
    [
      'heads that disagree',
      (f) => f.edit('config.json', { num_key_value_heads: 4 }),
      'model_invalid',
      /k_proj.weight has shape \[16,32\]/,
    ],
    [
      'another vocabulary',
      (f) => f.edit('config.json', { vocab_size: 41 }),
      'model_invalid',
      /embed_tokens.weight has shape/,
    ],
    [
      'a foreign quantization',
      (f) => f.edit('config.json', { quantization_config: { quant_method: 'gptq' } }),
      'model_unsupported',
      /gptq/,
    ],
    [
      'FP8',
      (f) =>
        f.edit('config.json', {
          quantization_config: { config_groups: { a: { weights: { type: 'float', num_bits: 8 } } } },
        }),
      'model_unsupported',
      /floating point/,
    ],
    [
      'a missing shard',
      (f) => f.remove('model-00002-of-00002.safetensors'),
      'model_invalid',
      /download is incomplete/,
    ],
    [
      'an index that leads out',
      (f) => f.edit('model.safetensors.index.json', { weight_map: { a: '../../etc/passwd' } }),
      'model_invalid',
      /no file name of this folder/,
    ],
    [
      'an index with an absolute path',
      (f) => f.edit('model.safetensors.index.json', { weight_map: { a: '/etc/x.safetensors' } }),
      'model_invalid',
      /no file name/,
    ],
    [
      'an index with a number',
      (f) => f.edit('model.safetensors.index.json', { weight_map: { a: 3 } }),
      'model_invalid',
      /no file name/,
    ],
    [
      'an index without a map',
      (f) => f.edit('model.safetensors.index.json', { weight_map: undefined }),
      'model_invalid',
      /no weight_map/,
    ],
    [
      'an index that promises too much',
      (f) =>
        f.edit('model.safetensors.index.json', { weight_map: { ghost: 'model-00001-of-00002.safetensors' } }),
      'model_invalid',
      /does not hold the tensor ghost/,
    ],
    [
      'only pickles',
      (f) =>
        f
          .remove('model.safetensors.index.json')
          .remove('model-00001-of-00002.safetensors')
          .remove('model-00002-of-00002.safetensors')
          .write('pytorch_model.bin', ''),
      'model_invalid',
      /pytorch_model.bin/,
    ],
    [
      'no tokenizer',
      (f) => f.remove('tokenizer.json'),
      'tokenizer_invalid',
      /neither tokenizer.json nor tokenizer.model/,
    ],
    ['a tokenizer without a model', (f) => f.write('tokenizer.json', '{}'), 'tokenizer_invalid', /no model/],
    [
      'a tokenizer with bad ids',
      (f) => f.edit('tokenizer.json', { model: { type: 'BPE', vocab: { a: -1 }, merges: [] } }),
      'tokenizer_invalid',
      /not a small integer/,
    ],
    [
      'a tokenizer with bad merges',
      (f) => f.edit('tokenizer.json', { model: { type: 'BPE', vocab: { a: 1 }, merges: [7] } }),
      'tokenizer_invalid',
      /merges/,
    ],
    [
      'a template that is a number',
      (f) => f.remove('chat_template.jinja').edit('tokenizer_config.json', { chat_template: 5 }),
      'template_invalid',
      /chat_template/,
    ],
  ])('refuses %s', async (_name, spoil, code, message) => {
    const error = await complaint(spoil);
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
  });

  it('takes the default of named templates', async () => {
    using folder = new ModelFolder();
    folder.remove('chat_template.jinja').edit('tokenizer_config.json', {
      chat_template: [
        { name: 'tool_use', template: 'T' },
        { name: 'default', template: 'D' },
      ],
    });
    expect((await openModel(folder.path)).chatTemplate).toBe('D');
  });

  it('ties the head where the configuration leaves it open and there is none', async () => {
    using folder = new ModelFolder();
    const withoutHead = (tie: boolean | undefined) => {
      const index = JSON.parse(JSON.stringify({ weight_map: {} }));
      for (const shard of ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']) {
        const file = ReadableFile.open(folder.file(shard));
        for (const t of readSafetensors(file, 0).tensors)
          if (t.name !== 'lm_head.weight') index.weight_map[t.name] = shard;
        file.close();
      }
      folder
        .write('model.safetensors.index.json', JSON.stringify(index))
        .edit('config.json', { tie_word_embeddings: tie });
      return openModel(folder.path);
    };
    expect((await withoutHead(undefined)).config.tieWordEmbeddings).toBe(true);
    expect((await withoutHead(true)).config.tieWordEmbeddings).toBe(true);
    await expect(withoutHead(false)).rejects.toThrow(/no lm_head.weight/);
  });
});
