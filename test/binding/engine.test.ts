import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { GREEDY, type SamplingParams, type StepEntry } from '../../src/engine/model-runner.js';
import { type ModelManifest, openModel } from '../../src/model/index.js';
import {
  countZeros,
  loadNativeRunner,
  type NativeOptions,
  type NativeRunner,
  nativeInfo,
  readRows,
} from '../../src/native/index.js';
import { addonCandidates } from '../../src/native/load-addon.js';

const TINY = fileURLToPath(new URL('../fixtures/models/tiny.gguf', import.meta.url));
const NONE = new Int32Array(0);

let manifest: ModelManifest;
const open: NativeRunner[] = [];

beforeAll(async () => {
  manifest = await openModel(TINY);
});
afterEach(async () => {
  for (const runner of open.splice(0)) await runner.close();
});

async function load(options: Partial<NativeOptions> = {}): Promise<NativeRunner> {
  const runner = await loadNativeRunner(manifest, {
    weights: 'i8',
    dense: false,
    kv: 'f16',
    threads: 2,
    maxModelLen: 128,
    maxSlots: 20,
    maxBatchedTokens: 256,
    kvMemory: 64 << 20,
    packedCache: false,
    ...options,
  });
  open.push(runner);
  return runner;
}

const prompt = (seed: number, length: number): Int32Array =>
  Int32Array.from(
    { length },
    (_, i) => (seed * 7919 + i * 104729 + ((i * i) % 13)) % manifest.config.vocabSize,
  );

/** Blocks [first, first + 8): room for 128 tokens. */
const blocks = (first: number) => Int32Array.from({ length: 8 }, (_, i) => first + i);

const entry = (slot: number, tokens: Int32Array, position = 0, first = slot * 8): StepEntry => ({
  slot,
  tokens,
  position,
  blockTable: blocks(first),
  sample: true,
});

async function logitsOf(runner: NativeRunner, entries: StepEntry[]): Promise<Float32Array[]> {
  const { logits } = await runner.stepWithLogits({ entries, copies: [] });
  const sampled = entries.filter((e) => e.sample).length;
  const size = logits.length / sampled;
  return Array.from({ length: sampled }, (_, i) => logits.slice(i * size, (i + 1) * size));
}

const greedy = (
  runner: NativeRunner,
  slot: number,
  tokens: Int32Array,
  params: Partial<SamplingParams> = {},
) => runner.openSlot(slot, { ...GREEDY, ...params }, tokens, NONE);

const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
const expectSameBits = (a: Float32Array, b: Float32Array) => expect(bytes(a).equals(bytes(b))).toBe(true);

describe('a row of logits depends on its own sequence alone, bit for bit', () => {
  for (const weights of ['f32', 'bf16', 'i8', 'i4'] as const)
    for (const kv of ['f16', 'i8'] as const)
      test(`${weights} weights, ${kv} cache: alone, among 15 others, in chunks of any size, on any number of threads`, async () => {
        const tokens = prompt(1, 61);
        const runner = await load({ weights, kv });
        greedy(runner, 0, tokens);
        const [alone] = await logitsOf(runner, [entry(0, tokens)]);
        expect(alone!.some((value) => value !== alone![0])).toBe(true);

        for (const chunk of [1, 5, 16, 40]) {
          let last: Float32Array | undefined;
          for (let at = 0; at < tokens.length; at += chunk) {
            const piece = tokens.subarray(at, at + chunk);
            [last] = await logitsOf(runner, [{ ...entry(0, piece, at, 9) }]);
          }
          expectSameBits(last!, alone!);
        }

        const others = Array.from({ length: 15 }, (_, i) => entry(i + 1, prompt(i + 2, 1 + ((i * 5) % 11))));
        for (const other of others) greedy(runner, other.slot, other.tokens);
        const crowd = [...others.slice(0, 7), entry(0, tokens), ...others.slice(7)];
        expectSameBits((await logitsOf(runner, crowd))[7]!, alone!);

        for (const threads of [1, 3, 4]) {
          const other = await load({ weights, kv, threads });
          greedy(other, 0, tokens);
          expectSameBits((await logitsOf(other, [entry(0, tokens)]))[0]!, alone!);
        }
      });

  test('a step longer than the engine runs at once gives what short ones give', async () => {
    const tokens = prompt(3, 100);
    const short = await load({ maxBatchedTokens: 7 });
    greedy(short, 0, tokens);
    let last: Float32Array | undefined;
    for (let at = 0; at < tokens.length; at += 7) {
      [last] = await logitsOf(short, [entry(0, tokens.subarray(at, at + 7), at)]);
    }
    const long = await load();
    greedy(long, 0, tokens);
    expectSameBits((await logitsOf(long, [entry(0, tokens)]))[0]!, last!);
  });
});

describe('steps', () => {
  test('a copied block serves as the original does', async () => {
    const tokens = prompt(4, 20);
    const runner = await load();
    greedy(runner, 0, tokens);
    greedy(runner, 1, tokens);
    await runner.step({ entries: [{ ...entry(0, tokens), sample: false }], copies: [] });
    const next = Int32Array.of(3);
    const [original] = await logitsOf(runner, [entry(0, next, 20)]);
    const { logits } = await runner.stepWithLogits({
      entries: [entry(1, next, 20, 40)],
      copies: [
        { from: 0, to: 40 },
        { from: 1, to: 41 },
      ],
    });
    expectSameBits(logits, original!);
  });

  test('the sampled token is the largest logit; log-probabilities sum to one over the vocabulary', async () => {
    const tokens = prompt(5, 12);
    const runner = await load();
    const all = manifest.config.vocabSize;
    greedy(runner, 0, tokens, { logprobs: Math.min(all, 4096) });
    const { outputs, logits } = await runner.stepWithLogits({ entries: [entry(0, tokens)], copies: [] });
    const [output] = outputs;
    expect(output!.token).toBe(logits.indexOf(Math.max(...logits)));
    expect(output!.top!.ids[0]).toBe(output!.token);
    expect(output!.top!.logprobs[0]).toBe(output!.logprob);
    expect(output!.top!.logprobs.reduce((sum, lp) => sum + Math.exp(lp), 0)).toBeCloseTo(1, 4);
  });

  test('prompt log-probabilities are those of decoding token by token, in chunks of any size', async () => {
    const tokens = prompt(6, 33);
    const runner = await load();
    const scored: Float32Array[] = [];
    for (const chunk of [33, 8]) {
      runner.openSlot(0, { ...GREEDY, promptLogprobs: 2 }, tokens, NONE);
      const rows: number[] = [];
      for (let at = 0; at < tokens.length; at += chunk) {
        const [output] = await runner.step({
          entries: [entry(0, tokens.subarray(at, at + chunk), at)],
          copies: [],
        });
        rows.push(...output!.prompt!.logprobs);
        expect(output!.prompt!.topIds.length).toBe(2 * output!.prompt!.logprobs.length);
      }
      scored.push(Float32Array.from(rows));
    }
    expect(scored[0]!.length).toBe(32);
    expectSameBits(scored[1]!, scored[0]!);
    greedy(runner, 1, tokens);
    for (const at of [0, 17, 31]) {
      const [logits] = await logitsOf(runner, [entry(1, tokens.subarray(0, at + 1))]);
      const largest = Math.max(...logits!);
      const lse = largest + Math.log(logits!.reduce((sum, l) => sum + Math.exp(l - largest), 0));
      expect(scored[0]![at]).toBeCloseTo(logits![tokens[at + 1]!]! - lse, 4);
    }
  });

  test('a seed decides what is drawn; the stream goes on after a preemption', async () => {
    const tokens = prompt(7, 9);
    const runner = await load();
    const params = { ...GREEDY, temperature: 1.5, seed: 42n };
    const draw = async (count: number, output: number[]): Promise<number[]> => {
      runner.openSlot(0, params, tokens, Int32Array.from(output));
      const drawn = [...output];
      let next = Int32Array.from([...tokens, ...output]);
      for (let position = 0; drawn.length < count; ) {
        const [out] = await runner.step({ entries: [entry(0, next, position)], copies: [] });
        drawn.push(out!.token);
        position += next.length;
        next = Int32Array.of(out!.token);
      }
      return drawn;
    };
    const whole = await draw(20, []);
    expect(await draw(20, whole.slice(0, 11))).toEqual(whole);
    expect(new Set(whole).size).toBeGreaterThan(1);
  });
});

describe('what does not fit is refused before anything runs, and the engine goes on', () => {
  const cases: [string, (e: StepEntry) => StepEntry, RegExp][] = [
    ['a slot out of range', (e) => ({ ...e, slot: 99 }), /slot 99/],
    ['a slot that is not open', (e) => ({ ...e, slot: 5 }), /slot 5 is not open/],
    ['no tokens', (e) => ({ ...e, tokens: NONE }), /no tokens/],
    ['a token outside the vocabulary', (e) => ({ ...e, tokens: Int32Array.of(1 << 20) }), /vocabulary/],
    ['a negative token', (e) => ({ ...e, tokens: Int32Array.of(-1) }), /token id -1/],
    ['a negative position', (e) => ({ ...e, position: -1 }), /positions -1/],
    ['positions past the context', (e) => ({ ...e, position: 127 }), /context of 128/],
    ['a block out of range', (e) => ({ ...e, blockTable: Int32Array.of(1 << 28) }), /is not one of/],
    ['a block table too short', (e) => ({ ...e, blockTable: NONE }), /block table holds 0 of 1/],
  ];
  for (const [name, spoil, message] of cases)
    test(name, async () => {
      const tokens = prompt(8, 6);
      const runner = await load();
      greedy(runner, 0, tokens);
      const [before] = await logitsOf(runner, [entry(0, tokens)]);
      await expect(runner.step({ entries: [spoil(entry(0, tokens))], copies: [] })).rejects.toThrow(message);
      expectSameBits((await logitsOf(runner, [entry(0, tokens)]))[0]!, before!);
    });

  test('the same slot twice, a budget exceeded, a copy out of range', async () => {
    const tokens = prompt(9, 5);
    const runner = await load({ maxBatchedTokens: 8 });
    greedy(runner, 0, tokens);
    greedy(runner, 1, tokens);
    const step = (entries: StepEntry[], copies = [] as { from: number; to: number }[]) =>
      runner.step({ entries, copies });
    await expect(step([entry(0, tokens), entry(0, tokens)])).rejects.toThrow(/twice|budget/);
    await expect(step([entry(0, tokens), entry(1, tokens)])).rejects.toThrow(/budget of 8/);
    await expect(step([], [{ from: 0, to: 1 << 29 }])).rejects.toThrow(/copy of block/);
    expect(await step([])).toEqual([]);
  });

  test('openSlot checks slot, prompt and parameters at once', async () => {
    const runner = await load();
    expect(() => greedy(runner, 20, prompt(1, 3))).toThrow(/slot must be a whole number from 0 to 19/);
    expect(() => greedy(runner, 0, Int32Array.of(1 << 24))).toThrow(/vocabulary/);
    expect(() => greedy(runner, 0, new Int32Array(500))).toThrow(/exceeds the context/);
    expect(() => greedy(runner, 0, prompt(1, 3), { logprobs: 1e9 })).toThrow(/logprobs/);
    expect(() => greedy(runner, 0, prompt(1, 3), { temperature: Number.NaN })).toThrow(/temperature/);
    expect(() => greedy(runner, 0, prompt(1, 3), { logitBias: [[1 << 24, 1]] })).toThrow(/logitBias/);
    expect(() => runner.openSlot(0, GREEDY, [1, 2] as unknown as Int32Array, NONE)).toThrow(/Int32Array/);
  });

  test('loading: an unknown instruction set, a cache too small, a tensor that is missing or misshapen', async () => {
    await expect(load({ isa: 'pentium' })).rejects.toMatchObject({ code: 'isa_unsupported' });
    await expect(load({ kvMemory: 1000 })).rejects.toThrow(/--kv-memory/);
    const whole = manifest;
    try {
      manifest = { ...whole, tensors: whole.tensors.slice(1) };
      await expect(load()).rejects.toMatchObject({
        code: 'model_invalid',
        message: expect.stringMatching(/missing/),
      });
      manifest = { ...whole, config: { ...whole.config, hiddenSize: whole.config.hiddenSize * 2 } };
      await expect(load()).rejects.toThrow(/shape/);
      manifest = { ...whole, config: { ...whole.config, numKvHeads: 0 } };
      await expect(load()).rejects.toThrow();
    } finally {
      manifest = whole;
    }
  });
});

describe('life and death', () => {
  test('a closed model rejects a step and throws on openSlot; closing twice is closing once', async () => {
    const runner = await load();
    greedy(runner, 0, prompt(1, 4));
    const inFlight = runner.step({ entries: [entry(0, prompt(1, 4))], copies: [] });
    await Promise.all([runner.close(), runner.close()]);
    expect((await inFlight)[0]!.token).toBeGreaterThanOrEqual(0);
    await expect(runner.step({ entries: [], copies: [] })).rejects.toThrow(/closed/);
    expect(() => greedy(runner, 0, prompt(1, 4))).toThrow(/closed/);
    expect(() => runner.closeSlot(0)).not.toThrow();
  });

  test('a process ends with status 0 whatever its engines are doing', { timeout: 60_000 }, async () => {
    const addon = addonCandidates().find((file) => statSync(file, { throwIfNoEntry: false }))!;
    const { config, files, tensors } = manifest;
    const options = {
      weights: 'i8',
      dense: false,
      kv: 'f16',
      threads: 2,
      isa: 'auto',
      maxModelLen: 128,
      maxSlots: 4,
    };
    const code = `
      const [addon, manifest, options, when] = JSON.parse(process.argv[1]);
      const { Engine } = require(addon);
      (async () => {
        for (let i = 0; i < 4; i++) {
          const engine = new Engine();
          const loading = engine.load(manifest, options);
          if (when === 'loading') continue;
          await loading;
          if (when === 'stepping') for (let n = 0; n < 20; n++)
            engine.step(new Int32Array(0), new Int32Array(0), new Int32Array(0), Int32Array.of(0, 1)).catch(() => {});
          if (when === 'closed') await engine.close();
        }
        if (when !== 'idle') process.exit(0);
      })();`;
    for (const when of ['loading', 'idle', 'stepping', 'closed']) {
      const argument = JSON.stringify([
        addon,
        { config, files, tensors, sourceKey: '' },
        { ...options, maxBatchedTokens: 128, kvBytes: 16 << 20, cacheFolder: '' },
        when,
      ]);
      const child = spawnSync(process.execPath, ['-e', code, argument], { encoding: 'utf8' });
      expect({ when, status: child.status, signal: child.signal, stderr: child.stderr }).toEqual({
        when,
        status: 0,
        signal: null,
        stderr: '',
      });
    }
  });

  test('a worker thread may end with an engine loading, idle or in a step', { timeout: 60_000 }, async () => {
    const options = {
      weights: 'i8',
      dense: false,
      kv: 'f16',
      threads: 2,
      isa: 'auto',
      maxModelLen: 128,
      maxSlots: 4,
    };
    const workerData = {
      addon: addonCandidates().find((file) => statSync(file, { throwIfNoEntry: false })),
      manifest: { config: manifest.config, files: manifest.files, tensors: manifest.tensors, sourceKey: '' },
      options: { ...options, maxBatchedTokens: 128, kvBytes: 16 << 20, cacheFolder: '' },
      params: GREEDY,
    };
    const code = `
      const { workerData: w, parentPort } = require('node:worker_threads');
      const engine = new (require(w.addon).Engine)();
      const loading = engine.load(w.manifest, w.options);
      if (w.when === 'loading') parentPort.postMessage('now');
      else loading.then(() => {
        if (w.when === 'stepping') {
          const tokens = new Int32Array(100).fill(5);
          engine.openSlot(0, w.params, tokens, new Int32Array(0));
          for (let i = 0; i < 50; i++)
            engine.step(Int32Array.of(0, 0, 100, 7, 1), tokens, Int32Array.of(0, 1, 2, 3, 4, 5, 6), new Int32Array(0));
        }
        parentPort.postMessage('now');
      });`;
    for (const when of ['loading', 'idle', 'stepping'])
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(code, { eval: true, workerData: { ...workerData, when } });
        const ended = new Promise<number>((resolve, reject) =>
          worker.once('exit', resolve).once('error', reject),
        );
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
        await worker.terminate();
        // 1: it was stopped; 0: it had nothing left to do and was faster.
        expect([0, 1]).toContain(await ended);
      }
  });
});

describe('the packed cache', () => {
  let folder: string;
  const before = process.env.FILIGREE_CACHE;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'filigree-cache-'));
    process.env.FILIGREE_CACHE = folder;
  });
  afterAll(() => {
    if (before === undefined) delete process.env.FILIGREE_CACHE;
    else process.env.FILIGREE_CACHE = before;
    rmSync(folder, { recursive: true });
  });

  test('serves the second start with the same bits; one that is damaged or foreign is rebuilt with a warning', async () => {
    const tokens = prompt(11, 30);
    const warnings: string[] = [];
    const start = async (options: Partial<NativeOptions> = {}) => {
      const runner = await load({
        packedCache: true,
        onWarning: (message) => warnings.push(message),
        ...options,
      });
      greedy(runner, 0, tokens);
      const [logits] = await logitsOf(runner, [entry(0, tokens)]);
      return { logits: logits!, fromCache: runner.info.fromCache };
    };
    const first = await start();
    const second = await start();
    expect([first.fromCache, second.fromCache]).toEqual([false, true]);
    expectSameBits(second.logits, first.logits);
    expect((await start({ weights: 'bf16' })).fromCache).toBe(false);

    const packed = join(folder, 'packed');
    expect(readdirSync(packed).filter((name) => name.includes('tmp'))).toEqual([]);
    const good = readdirSync(packed).map((name) => ({
      path: join(packed, name),
      data: readFileSync(join(packed, name)),
    }));
    expect(good.length).toBe(2);
    expect(warnings).toEqual([]);
    for (const spoil of [
      (data: Buffer) => data.subarray(0, data.length >> 1),
      (data: Buffer) => data.subarray(0, 3),
      (data: Buffer) => Buffer.from(data.map((byte, i) => (i === data.length - 700 ? byte ^ 1 : byte))),
      (data: Buffer) => Buffer.from(data.map((byte, i) => (i === 60 ? byte ^ 255 : byte))),
      (data: Buffer) => Buffer.alloc(data.length, 0xff),
    ]) {
      for (const { path, data } of good) writeFileSync(path, spoil(data));
      const rebuilt = await start();
      expect(rebuilt.fromCache).toBe(false);
      expect(warnings.splice(0).join()).toMatch(/written again/);
      expectSameBits(rebuilt.logits, first.logits);
      expect((await start()).fromCache).toBe(true);
    }
    // Swapped: each is whole, and belongs to the other form.
    cpSync(good[0]!.path, `${good[0]!.path}.copy`);
    writeFileSync(good[0]!.path, good[1]!.data);
    writeFileSync(good[1]!.path, good[0]!.data);
    expect((await start()).fromCache).toBe(false);
    expect(warnings.splice(0).join()).toMatch(/another model or another form/);
  });

  test('a cache that cannot be written costs a warning', async () => {
    writeFileSync(join(folder, 'file'), '');
    process.env.FILIGREE_CACHE = join(folder, 'file');
    const warnings: string[] = [];
    const runner = await load({ packedCache: true, onWarning: (message) => warnings.push(message) });
    process.env.FILIGREE_CACHE = folder;
    expect(runner.info.fromCache).toBe(false);
    expect(warnings.join()).toMatch(/not cached/);
  });
});

describe('tools', () => {
  test('nativeInfo names the processor, its instruction sets and the kernels', async () => {
    const info = await nativeInfo();
    expect(info.isas).toContain('scalar');
    expect(info.isas).toContain(info.bestIsa);
    expect(info.defaultThreads).toBeGreaterThanOrEqual(1);
    expect(info.kernels.some((kernel) => kernel.isa === 'scalar' && kernel.supported)).toBe(true);
  });

  test('zeros and rows of a tensor', async () => {
    const files = manifest.files.map((file) => file.path);
    const tensor = manifest.tensors.find((t) => t.name === 'model.embed_tokens.weight')!;
    const rows = await readRows(tensor, files, 0, tensor.shape[0]!);
    expect(rows.length).toBe(tensor.shape[0]! * tensor.shape[1]!);
    const zeros = rows.reduce((sum, value) => sum + (value === 0 ? 1 : 0), 0);
    expect(await countZeros(tensor, files)).toEqual({ zeros, total: rows.length });
    await expect(readRows(tensor, files, tensor.shape[0]!, 1)).rejects.toThrow(/rows/);
    await expect(countZeros(tensor, ['/nonexistent'])).rejects.toMatchObject({ code: 'io' });
  });
});
