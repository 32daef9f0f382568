import { readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { FiligreeError } from '../../../src/errors.js';
import { openAdapter, openModel, type TensorEntry } from '../../../src/model/index.js';
import { denseModel } from '../../compress/tiny.js';
import { AdapterFolder, merge, type Pair } from './adapter-folder.js';
import { MODELS, safetensors } from './folder.js';

const folder = denseModel();
afterAll(() => folder[Symbol.dispose]());
const model = { ...(await openModel(folder.path)), name: 'Tiny' };

const pair = (module: string, rows: number, columns: number, rank = 4): Pair => ({
  module,
  rank,
  a: new Float32Array(rank * columns).fill(0.5),
  b: new Float32Array(rows * rank).fill(0.25),
});
const Q = pair('layers.0.self_attn.q_proj', 64, 64);
const DOWN = pair('layers.2.mlp.down_proj', 64, 160);
const open = (adapter: AdapterFolder) => openAdapter('x', adapter.path, model);

/** One clear line, of the code that ends a command with that message. */
function refusal(adapter: AdapterFolder): string {
  try {
    open(adapter);
  } catch (error) {
    expect(error).toBeInstanceOf(FiligreeError);
    const { message, info } = error as FiligreeError;
    expect(message).toMatch(/^adapter x: [^\n]+$/);
    expect(info.local).toBe(true);
    return message;
  } finally {
    adapter[Symbol.dispose]();
  }
  throw new Error('it was accepted');
}

describe('reading an adapter', () => {
  test('what there is of it: matrices, scales, positions, the base it names', () => {
    using adapter = new AdapterFolder([Q, DOWN], { lora_alpha: 6 });
    const opened = open(adapter);
    expect(opened).toMatchObject({ name: 'x', rank: 4, problems: [] });
    expect(opened.pairs.map(({ layer, target, scale }) => [layer, target, scale])).toEqual([
      [0, 'q_proj', 1.5],
      [2, 'down_proj', 1.5],
    ]);
    const { a, b } = opened.pairs[1] as (typeof opened.pairs)[1];
    expect([a.shape, b.shape, a.encoding]).toEqual([[4, 160], [64, 4], 'f32']);
    const part = b.parts.data as { offset: number; bytes: number };
    const bytes = readFileSync(opened.files[0] as string).subarray(part.offset, part.offset + part.bytes);
    expect(new Set(new Float32Array(new Uint8Array(bytes).buffer))).toEqual(new Set([0.25]));
  });

  test('patterns choose rank and scale as PEFT does: the first key that is the path or its end', () => {
    const wide = pair('layers.1.self_attn.q_proj', 64, 64, 9);
    using adapter = new AdapterFolder([Q, wide, DOWN], {
      rank_pattern: { 'layers.1.self_attn.q_proj': 9, q_proj: 4, own_proj: 7 },
      alpha_pattern: { '^model\\.layers\\.[12]\\.': 36 },
      use_rslora: true,
    });
    const scales = Object.fromEntries(open(adapter).pairs.map(({ layer, scale }) => [layer, scale]));
    expect(scales).toEqual({ 0: 8, 1: 12, 2: 18 });
  });

  test('another base only warns', () => {
    for (const [base, problems] of [
      ['org/tiny', 0],
      ['/data/TINY/', 0],
      [null, 0],
      ['org/tiny-instruct', 1],
    ] as const) {
      using adapter = new AdapterFolder([Q], { base_model_name_or_path: base });
      expect(open(adapter).problems.length).toBe(problems);
    }
  });

  test('one that PEFT wrote: scale · B A is what PEFT says it adds', () => {
    const path = join(MODELS, 'peft-adapter');
    const opened = openAdapter('peft', path, model);
    const bytes = readFileSync(opened.files[0] as string);
    const values = ({ parts }: TensorEntry) => {
      const { offset, bytes: length } = parts.data as { offset: number; bytes: number };
      return new Float32Array(new Uint8Array(bytes.subarray(offset, offset + length)).buffer);
    };
    const deltas = JSON.parse(readFileSync(join(path, 'deltas.json'), 'utf8')) as Record<string, number[]>;
    expect(Object.keys(deltas).length).toBe(3 * 7);
    expect(opened.pairs.length).toBe(3 * 7);
    expect(opened).toMatchObject({ rank: 5, problems: [] });
    for (const { layer, target, scale, a, b } of opened.pairs) {
      const [rows, rank] = b.shape as [number, number];
      const columns = a.shape[1] as number;
      const delta = new Float32Array(rows * columns);
      merge(delta, { module: '', a: values(a), b: values(b), rank }, scale);
      const kind = /^[qkvo]_/.test(target) ? 'self_attn' : 'mlp';
      const [norm, first, last] = deltas[`model.layers.${layer}.${kind}.${target}`] as [
        number,
        number,
        number,
      ];
      expect(Math.hypot(...delta) / norm).toBeCloseTo(1, 5);
      expect(delta[columns + 2]).toBeCloseTo(first, 6);
      expect(delta.at(-3)).toBeCloseTo(last, 6);
    }
  });
});

describe('what is refused, in one line', () => {
  const CONFIGS: [string, Record<string, unknown>, RegExp][] = [
    ['another kind of adapter', { peft_type: 'LOHA' }, /type LOHA is not served; only LORA/],
    ['no kind', { peft_type: undefined }, /peft_type must be a string, found missing/],
    ['DoRA', { use_dora: true }, /DoRA is not served/],
    ['biases', { bias: 'all' }, /bias "all" is not served/],
    ['biases on B', { lora_bias: true }, /lora_bias/],
    ['whole modules', { modules_to_save: ['lm_head'] }, /modules_to_save/],
    ['transposed weights', { fan_in_fan_out: true }, /fan_in_fan_out/],
    ['KaSA', { kasa_config: { beta: 1 } }, /kasa_config/],
    ['replicated layers', { layer_replication: [[0, 2]] }, /layer_replication/],
    [
      'an initialization that changes the base',
      { init_lora_weights: 'pissa_niter_4' },
      /"pissa_niter_4" also changes the base/,
    ],
    ['rank 0', { r: 0 }, /r must be an integer from 1 to 512, found 0/],
    ['a huge rank', { r: 1e9 }, /r must be an integer from 1 to 512/],
    ['no rank', { r: null }, /r must be an integer/],
    ['no alpha', { lora_alpha: undefined }, /lora_alpha must be a number/],
    ['an alpha that is text', { lora_alpha: '16' }, /lora_alpha must be a number/],
    ['a huge rank by pattern', { rank_pattern: { q_proj: 4096 } }, /rank_pattern: q_proj must be an integer/],
    ['a pattern that is none', { alpha_pattern: { '(': 1 } }, /alpha_pattern: "\(" is no regular expression/],
    ['another rank than the file has', { r: 8 }, /lora_A.weight has shape \[4,64\]; .* call for \[8,64\]/],
    ['targets that are no list', { target_modules: [1] }, /target_modules/],
    [
      'a target that has no tensors',
      { target_modules: ['q_proj', 'v_proj'] },
      /names v_proj, but .* holds no tensors of it/,
    ],
    [
      'a target of no layer',
      { target_modules: ['q_proj', 'lm_head'] },
      /changes lm_head; only q_proj, .* can be changed/,
    ],
  ];
  for (const [what, config, message] of CONFIGS)
    test(what, () => {
      expect(refusal(new AdapterFolder([Q], config))).toMatch(message);
    });

  const FILES: [string, (adapter: AdapterFolder) => unknown, RegExp][] = [
    ['no configuration', (a) => a.remove('adapter_config.json'), /holds no adapter_config.json/],
    [
      'a configuration that is not JSON',
      (a) => a.write(Buffer.from('{'), 'adapter_config.json'),
      /not valid JSON/,
    ],
    ['no weights', (a) => a.remove('adapter_model.safetensors'), /the download is incomplete/],
    [
      'a pickle',
      (a) => a.remove('adapter_model.safetensors').write(Buffer.of(1), 'adapter_model.bin'),
      /can run code/,
    ],
    ['a truncated file', (a) => truncateSync(join(a.path, 'adapter_model.safetensors'), 1000), /truncated/],
    ['an empty file', (a) => a.write(Buffer.alloc(0)), /0 bytes long/],
    ['noise', (a) => a.write(Buffer.alloc(4096, 0xa5)), /header/],
    ['no tensors', (a) => a.write(safetensors({})), /no tensors/],
  ];
  for (const [what, spoil, message] of FILES)
    test(what, () => {
      const adapter = new AdapterFolder([Q]);
      spoil(adapter);
      expect(refusal(adapter)).toMatch(message);
    });

  const f32 = (...shape: number[]) => {
    const bytes = new Uint8Array(4 * shape.reduce((a, b) => a * b, 1));
    return { dtype: 'F32', shape, bytes };
  };
  const q = 'base_model.model.model.layers.0.self_attn.q_proj';
  const both = { [`${q}.lora_A.weight`]: f32(4, 64), [`${q}.lora_B.weight`]: f32(64, 4) };
  const TENSORS: [string, Parameters<typeof safetensors>[0], RegExp][] = [
    ['B missing', { [`${q}.lora_A.weight`]: f32(4, 64) }, /q_proj.lora_B.weight is missing/],
    ['A missing', { [`${q}.lora_B.weight`]: f32(64, 4) }, /q_proj.lora_A.weight is missing/],
    ['A of another width', { ...both, [`${q}.lora_A.weight`]: f32(4, 60) }, /\[4,60\]; .*\[4,64\]/],
    ['B of another height', { ...both, [`${q}.lora_B.weight`]: f32(63, 4) }, /\[63,4\]; .*\[64,4\]/],
    ['A and B of other ranks', { ...both, [`${q}.lora_B.weight`]: f32(64, 3) }, /\[64,3\]; .*\[64,4\]/],
    ['a vector', { ...both, [`${q}.lora_B.weight`]: f32(256) }, /\[256\]/],
    [
      'a layer beyond the model',
      {
        'base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight': f32(4, 64),
        'base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight': f32(64, 4),
      },
      /the model has 3 layers/,
    ],
    ['a head', { ...both, 'base_model.model.lm_head.lora_A.weight': f32(4, 64) }, /changes lm_head; only/],
    [
      'an embedding',
      { ...both, 'base_model.model.model.embed_tokens.lora_embedding_A': f32(4, 40) },
      /changes model.embed_tokens; only/,
    ],
    [
      'an expert',
      { ...both, 'base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight': f32(4, 64) },
      /changes model.layers.0.mlp.experts.0.up_proj/,
    ],
    ['magnitudes of DoRA', { ...both, [`${q}.lora_magnitude_vector`]: f32(64) }, /DoRA/],
    [
      'a whole matrix',
      { ...both, 'base_model.model.model.norm.weight': f32(64) },
      /not one of a LoRA adapter/,
    ],
    [
      'integers',
      { ...both, [`${q}.lora_B.weight`]: { dtype: 'I32', shape: [64, 4], bytes: new Uint8Array(1024) } },
      /dtype i32/,
    ],
  ];
  for (const [what, tensors, message] of TENSORS)
    test(what, () => {
      expect(refusal(new AdapterFolder([Q]).write(safetensors(tensors)))).toMatch(message);
    });

  test('a folder that is not there, or a file', () => {
    for (const path of ['/nowhere', join(folder.path, 'config.json')])
      expect(() => openAdapter('x', path, model)).toThrow(/^adapter x: there is no folder /);
  });
});
