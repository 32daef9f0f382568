import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Engine } from '../../src/engine/engine.js';
import { GREEDY } from '../../src/engine/model-runner.js';
import { type ModelManifest, openAdapter, openModel } from '../../src/model/index.js';
import type { NativeOptions, NativeRunner } from '../../src/native/index.js';
import { readRows } from '../../src/native/index.js';
import { denseModel, noise, TINY } from '../compress/tiny.js';
import { CPU_ONLY } from '../device.js';
import { AdapterFolder, merge, type Pair, rounded } from '../unit/model/adapter-folder.js';
import { MODELS } from '../unit/model/folder.js';
import { kept, MODULES, ODD, pairsOf, type Shape, sizeOf, tiny, tokens } from './adapter-models.js';
import { entry, expectSameBits, load, logitsOf, NONE } from './support.js';

/** The model with the adapter's products added to its weights. */
async function merged(pairs: readonly Pair[], scale: (module: string) => number, shape: Shape = TINY) {
  return await tiny(shape, (name, values) => {
    const pair = pairs.find(({ module }) => name === `model.${module}.weight`);
    if (pair) merge(values, pair, scale(pair.module));
  });
}

const EXACT: Partial<NativeOptions> = { weights: 'f32', kv: 'f32' };

async function logits(runner: NativeRunner, ids: Int32Array, adapter?: string): Promise<Float32Array> {
  runner.openSlot(0, GREEDY, ids, NONE, adapter);
  return (await logitsOf(runner, [entry(0, ids)]))[0] as Float32Array;
}

const distance = (x: Float32Array, y: Float32Array) =>
  Math.max(...x.map((value, i) => Math.abs(value - (y[i] as number))));
const norm = (x: Float32Array) => Math.hypot(...x);
const minus = (x: Float32Array, y: Float32Array) => x.map((value, i) => value - (y[i] as number));

/** Served over f32 weights it gives what the merged model gives; the base alone does not. */
async function expectMerged(
  base: ModelManifest,
  reference: ModelManifest,
  folder: AdapterFolder,
  options: Partial<NativeOptions> = {},
): Promise<void> {
  const adapters = [openAdapter('x', kept(folder).path, base)];
  const served = await load({ ...EXACT, ...options, adapters }, base);
  const whole = await load({ ...EXACT, ...options }, reference);
  for (const length of [2, 7, 40]) {
    const ids = tokens(length, length);
    const with_ = await logits(served, ids, 'x');
    const expected = await logits(whole, ids);
    expect(distance(with_, expected)).toBeLessThan(2e-5 * norm(expected));
    expect(distance(await logits(served, ids), expected)).toBeGreaterThan(2e-3 * norm(expected));
  }
}

const skipped = CPU_ONLY ? ` (${CPU_ONLY})` : '';

describe.skipIf(CPU_ONLY)(`an adapter over f32 weights gives what W + scale · B A gives${skipped}`, () => {
  for (const name of MODULES)
    test(name, async () => {
      const pairs = pairsOf([name], 3, TINY);
      await expectMerged(await tiny(), await merged(pairs, () => 4), new AdapterFolder(pairs));
    });

  for (const [label, shape] of [
    ['whole panels', TINY],
    ['shapes that fill no panel', ODD],
  ] as const)
    test(`all matrices, ranks and scales by pattern, ${label}`, async () => {
      const rank = (module: string) =>
        module === 'layers.0.self_attn.k_proj'
          ? 1
          : module.endsWith('up_proj')
            ? 19
            : module.endsWith('down_proj')
              ? 33
              : 5;
      const pairs = pairsOf(MODULES, 4, shape, rank);
      const folder = new AdapterFolder(pairs, {
        r: 5,
        lora_alpha: 10,
        rank_pattern: { 'layers.0.self_attn.k_proj': 1, up_proj: 19, '^model\\..*down_proj$': 33 },
        alpha_pattern: { 'layers.[0-9]+.mlp.up_proj': 38 },
      });
      const scale = (module: string) => (module.endsWith('up_proj') ? 38 : 10) / rank(module);
      await expectMerged(await tiny(shape), await merged(pairs, scale, shape), folder);
    });

  test('rank-stabilized scale; one layer alone', async () => {
    const pairs = pairsOf(MODULES, 5, TINY).filter(({ module }) => module.startsWith('layers.1.'));
    const folder = new AdapterFolder(pairs, { use_rslora: true, lora_alpha: 3, layers_to_transform: [1] });
    await expectMerged(await tiny(), await merged(pairs, () => 1.5), folder);
  });

  for (const dtype of ['F16', 'BF16'] as const)
    test(`stored as ${dtype}`, async () => {
      const pairs = pairsOf(MODULES, 6, TINY);
      const stored = pairs.map((pair) => ({ ...pair, a: rounded(pair.a, dtype), b: rounded(pair.b, dtype) }));
      await expectMerged(await tiny(), await merged(stored, () => 4), new AdapterFolder(pairs, {}, dtype));
    });

  test('one that PEFT wrote', async () => {
    const base = await tiny();
    const opened = openAdapter('peft', join(MODELS, 'peft-adapter'), base);
    const deltas = new Map<string, (to: Float32Array) => void>();
    for (const { layer, target, scale, a, b } of opened.pairs) {
      const [rank] = a.shape as [number, number];
      const pair = {
        module: '',
        rank,
        a: await readRows(a, opened.files, 0, rank),
        b: await readRows(b, opened.files, 0, b.shape[0] as number),
      };
      deltas.set(`${layer} ${target}`, (to) => merge(to, pair, scale));
    }
    const reference = await tiny(TINY, (name, values) => {
      const [, layer, target] = /layers\.(\d)\..*\.(\w+)\.weight$/.exec(name) ?? [];
      deltas.get(`${layer} ${target}`)?.(values);
    });
    const served = await load({ ...EXACT, adapters: [opened] }, base);
    const expected = await logits(await load(EXACT, reference), tokens(1, 20));
    expect(distance(await logits(served, tokens(1, 20), 'peft'), expected)).toBeLessThan(
      2e-5 * norm(expected),
    );
    expect(distance(await logits(served, tokens(1, 20)), expected)).toBeGreaterThan(2e-3 * norm(expected));
  });

  test('a GGUF file, whose q and k rows lie in another order', async () => {
    const { manifest: gguf } = await import('./support.js');
    expect(gguf.tensors.some((t) => (t.permutedHeads ?? 0) > 0)).toBe(true);
    const { hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headDim, vocabSize } = gguf.config;
    const shape = {
      hidden: hiddenSize,
      intermediate: intermediateSize,
      layers: numLayers,
      heads: numHeads,
      kv: numKvHeads,
      headDim,
    };
    const pairs = pairsOf(MODULES, 7, shape);
    // The same values as a folder of f32: the reader puts the rows in order.
    const files = gguf.files.map((file) => file.path);
    const values = new Map<string, Float32Array>();
    for (const t of gguf.tensors)
      values.set(t.name, await readRows(t, files, 0, t.shape.length === 1 ? 1 : (t.shape[0] as number)));
    const folder = kept(
      denseModel(
        (name, to) => {
          to.set(values.get(name) as Float32Array);
          const pair = pairs.find(({ module }) => name === `model.${module}.weight`);
          if (pair) merge(to, pair, 4);
        },
        {
          rope_theta: gguf.config.ropeTheta,
          rms_norm_eps: gguf.config.rmsNormEps,
          max_position_embeddings: gguf.config.maxPositionEmbeddings,
        },
        shape,
        vocabSize,
      ),
    );
    const reference = { ...(await openModel(folder.path)) };
    reference.config = { ...gguf.config };
    await expectMerged(gguf, reference, new AdapterFolder(pairs));
  });
});

describe.skipIf(CPU_ONLY)(`an adapter over compressed weights${skipped}`, () => {
  /** Few enough weights are left for a sparse layout on every processor; all are codes that the format holds exactly, so only activations are rounded. */
  const sparse = (weights: 'bf16' | 'i8' | 'i4') => (name: string, values: Float32Array) => {
    const matrix = name.includes('_proj');
    if (!matrix && !name.includes('embed')) return;
    const columns = matrix ? sizeOf(name.replace('.weight', ''), TINY)[1] : TINY.hidden;
    const most = weights === 'i4' && matrix ? 7 : 127;
    const random = noise(99);
    for (let at = 0; at < values.length; at += columns) {
      const row = values.subarray(at, at + columns);
      const largest = Math.max(...row.map(Math.abs));
      row.forEach((value, i) => {
        row[i] = matrix && random() < 0.7 ? 0 : Math.round((value / largest) * most) / (4 * most);
      });
      for (let group = 0; group < columns; group += 32) row[group] = 0.25;
    }
  };
  const FORMATS = [
    ['bf16', 0.02],
    ['i8', 0.05],
    ['i4', 0.05],
  ] as const;

  for (const [weights, tolerance] of FORMATS)
    test(`${weights}, most weights zero: what it adds is what it adds to f32; B = 0 adds nothing, bit for bit`, async () => {
      const base = await tiny(TINY, sparse(weights));
      const pairs = pairsOf(MODULES, 8, TINY);
      const none = pairs.map((pair) => ({ ...pair, b: new Float32Array(pair.b.length) }));
      const adapters = [
        openAdapter('x', kept(new AdapterFolder(pairs, { lora_alpha: 2 })).path, base),
        openAdapter('zero', kept(new AdapterFolder(none)).path, base),
      ];
      const exact = await load({ ...EXACT, adapters }, base);
      const packed = await load({ weights, adapters }, base);
      const plain = await load({ weights }, base);
      expect(Object.keys(packed.info.formats).some((format) => /bitmask|pairs|slots/.test(format))).toBe(
        true,
      );
      expect(packed.info.formats).toEqual(plain.info.formats);
      for (const length of [1, 30]) {
        const ids = tokens(2, length);
        const added = minus(await logits(packed, ids, 'x'), await logits(packed, ids));
        const expected = minus(await logits(exact, ids, 'x'), await logits(exact, ids));
        expect(norm(minus(added, expected))).toBeLessThan(tolerance * norm(expected));
        const alone = await logits(plain, ids);
        expectSameBits(await logits(packed, ids), alone);
        expectSameBits(await logits(packed, ids, 'zero'), alone);
      }
    });
});

describe.skipIf(CPU_ONLY)(`base and two adapters in one batch${skipped}`, async () => {
  const base = await tiny();
  const adapters = [
    openAdapter('a', kept(new AdapterFolder(pairsOf(MODULES, 11, TINY))).path, base),
    openAdapter(
      'b',
      kept(new AdapterFolder(pairsOf(['self_attn.v_proj', 'mlp.down_proj'], 12, TINY, () => 24))).path,
      base,
    ),
  ];
  const CHOICES = [undefined, 'a', 'b'];

  for (const weights of ['f32', 'bf16', 'i8', 'i4'] as const)
    test(`${weights}: each gives the bits it gives alone, in chunks of any size, on any number of threads`, async () => {
      const runner = await load({ weights, adapters }, base);
      const prompts = Array.from({ length: 12 }, (_, i) => tokens(i, 1 + ((i * 7) % 37)));
      const alone: Float32Array[] = [];
      for (const [i, ids] of prompts.entries()) alone.push(await logits(runner, ids, CHOICES[i % 3]));
      expect(
        distance(alone[0] as Float32Array, await logits(runner, prompts[0] as Int32Array, 'a')),
      ).toBeGreaterThan(1e-3);
      for (const threads of [2, 1, 3]) {
        const other = threads === 2 ? runner : await load({ weights, adapters, threads }, base);
        const open = () =>
          prompts.forEach((ids, i) => {
            other.openSlot(i, GREEDY, ids, NONE, CHOICES[i % 3]);
          });
        open();
        const together = await logitsOf(
          other,
          prompts.map((ids, i) => entry(i, ids)),
        );
        together.forEach((row, i) => {
          expectSameBits(row, alone[i] as Float32Array);
        });
        for (const chunk of [1, 5, 16]) {
          open();
          for (let at = 0; at < 37; at += chunk) {
            const steps = prompts.flatMap((ids, i) =>
              at < ids.length
                ? [
                    {
                      ...entry(i, ids.subarray(at, at + chunk), at, i * 8),
                      last: at + chunk >= ids.length,
                      i,
                    },
                  ]
                : [],
            );
            const rows = await logitsOf(other, steps);
            steps.forEach(({ last, i }, row) => {
              if (last) expectSameBits(rows[row] as Float32Array, alone[i] as Float32Array);
            });
          }
        }
      }
    });

  const generate = async (engine: Engine, ids: Int32Array, adapter: string | undefined, id: string) => {
    const generation = engine.submit({
      id,
      prompt: ids,
      sampling: GREEDY,
      maxTokens: 24,
      stopTokenIds: [],
      ...(adapter !== undefined && { adapter }),
    });
    const output: number[] = [];
    let cached = 0;
    let preemptions = 0;
    for await (const event of generation) {
      if (event.type === 'token') output.push(event.token);
      if (event.type !== 'finish') continue;
      expect(event.error).toBe(null);
      ({ cachedTokens: cached, preemptions } = event);
    }
    return { output, cached, preemptions };
  };
  const engineOf = (runner: NativeRunner, prefixCache = true) =>
    new Engine(runner, {
      maxNumSeqs: 16,
      maxNumBatchedTokens: 64,
      prefixCache,
      queueLimit: 64,
      queueTokenLimit: 1e6,
    });

  test('the prefix cache is never shared across adapters, nor by a salt that looks like one', async () => {
    const ids = tokens(5, 64);
    const expected: number[][] = [];
    const plain = engineOf(await load({ adapters }, base), false);
    for (const adapter of CHOICES) expected.push((await generate(plain, ids, adapter, 'p')).output);
    expect(new Set(expected.map(String)).size).toBe(3);
    const engine = engineOf(await load({ adapters }, base));
    for (const round of [0, 1])
      for (const [i, adapter] of CHOICES.entries()) {
        const { output, cached } = await generate(engine, ids, adapter, `c${round}${i}`);
        expect(output).toEqual(expected[i]);
        expect(cached).toBe(round === 0 ? 0 : 63);
      }
    for (const cacheSalt of ['a', 'adapter ["a",""]', '["a",""]']) {
      const generation = engine.submit({
        id: 's',
        prompt: ids,
        sampling: GREEDY,
        maxTokens: 1,
        stopTokenIds: [],
        cacheSalt,
      });
      for await (const event of generation) if (event.type === 'finish') expect(event.cachedTokens).toBe(0);
    }
    engine.check();
    expect(() =>
      engine.submit({ id: 'n', prompt: ids, sampling: GREEDY, maxTokens: 1, stopTokenIds: [], adapter: 'c' }),
    ).toThrow(/There is no adapter 'c'/);
  });

  test('preempted and recomputed, each goes on under its adapter', async () => {
    const prompts = Array.from({ length: 9 }, (_, i) => tokens(i, 30));
    const plain = engineOf(await load({ adapters }, base), false);
    const expected: number[][] = [];
    for (const [i, ids] of prompts.entries())
      expected.push((await generate(plain, ids, CHOICES[i % 3], `e${i}`)).output);
    // Blocks of four whole sequences for nine.
    const tight = await load({ adapters, maxModelLen: 64, kvMemory: 16 * 16 * 2 * 3 * 2 * 16 * 2 }, base);
    expect(tight.info.numBlocks).toBe(16);
    const engine = engineOf(tight);
    const answers = await Promise.all(
      prompts.map((ids, i) => generate(engine, ids, CHOICES[i % 3], `t${i}`)),
    );
    expect(answers.reduce((sum, { preemptions }) => sum + preemptions, 0)).toBeGreaterThan(0);
    answers.forEach(({ output }, i) => {
      expect(output).toEqual(expected[i]);
    });
    engine.check();
  });
});
