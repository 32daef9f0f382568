import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { randomModel } from '../../bench/shapes.js';
import { GREEDY, type StepEntry } from '../../src/engine/model-runner.js';
import { cacheFolder, type ModelManifest, openModel } from '../../src/model/index.js';
import {
  loadNativeRunner,
  type NativeOptions,
  type NativeRunner,
  nativeGpus,
} from '../../src/native/index.js';
import { Tokenizer } from '../../src/tokenizer/index.js';
import { DEVICE } from '../device.js';
import {
  GOLDENS,
  golden,
  mean,
  missing,
  perplexity,
  SMOLLM2,
  score,
  tensors,
  wikitext2,
  windowMeans,
} from './support.js';

/** A GPU against the CPU, and against itself where a request must not see its neighbours. */
const without = DEVICE === 'cuda' ? null : 'skipped, FILIGREE_TEST_DEVICE is not cuda';

const NONE = new Int32Array(0);
const POSITIONS = 512;
const open: NativeRunner[] = [];
afterEach(async () => {
  for (const runner of open.splice(0)) await runner.close();
});

async function load(
  manifest: ModelManifest,
  device: 'cpu' | 'cuda',
  options: Partial<NativeOptions> = {},
): Promise<NativeRunner> {
  const runner = await loadNativeRunner(manifest, {
    device,
    weights: 'bf16',
    dense: false,
    kv: 'bf16',
    maxModelLen: POSITIONS,
    maxSlots: 32,
    maxBatchedTokens: 4096,
    kvMemory: 1 << 30,
    packedCache: false,
    ...options,
  });
  open.push(runner);
  return runner;
}

const ids = (seed: number, length: number, vocabulary: number) =>
  Int32Array.from({ length }, (_, i) => (seed * 7919 + i * 104_729 + ((i * i) % 13)) % vocabulary);

const entry = (slot: number, tokens: Int32Array, position = 0, positions = POSITIONS): StepEntry => ({
  slot,
  tokens,
  position,
  blockTable: Int32Array.from({ length: positions / 16 }, (_, i) => slot * (positions / 16) + i),
  sample: true,
});

async function logits(runner: NativeRunner, entries: StepEntry[]): Promise<Float32Array[]> {
  const result = await runner.stepWithLogits({ entries, copies: [] });
  const size = result.logits.length / entries.length;
  return entries.map((_, i) => result.logits.slice(i * size, (i + 1) * size));
}

/** Logits of the ends of so many prompts, read in one step, and of `steps` tokens decoded after them, all at once. */
async function run(runner: NativeRunner, sequences: number, steps: number): Promise<Float32Array[]> {
  const { vocabSize } = runner.info;
  const prompts = Array.from({ length: sequences }, (_, i) => ids(i + 1, 9 + 13 * i, vocabSize));
  for (const [slot, tokens] of prompts.entries()) runner.openSlot(slot, GREEDY, tokens, NONE);
  const all = await logits(
    runner,
    prompts.map((tokens, slot) => entry(slot, tokens)),
  );
  for (let n = 0; n < steps; ++n) {
    const next = prompts.map((tokens, slot) => entry(slot, ids(slot + n, 1, vocabSize), tokens.length + n));
    all.push(...(await logits(runner, next)));
  }
  return all;
}

/** Of each row: ||a - b|| / ||b||. */
const distances = (a: Float32Array[], b: Float32Array[]) =>
  a.map((row, i) => {
    let error = 0;
    let norm = 0;
    row.forEach((value, j) => {
      error += (value - b[i]![j]!) ** 2;
      norm += b[i]![j]! ** 2;
    });
    return Math.sqrt(error / norm);
  });

const bytes = (row: Float32Array) => Buffer.from(row.buffer, row.byteOffset, row.byteLength);

describe.skipIf(without)(`a GPU beside the CPU${without ? ` (${without})` : ''}`, () => {
  // bf16 activations between layers on one side, f32 on the other; i8 and i4: activations rounded differently, too.
  // The wider shape is one whose i8 weights meet activations rounded to i8 however many tokens there are.
  for (const [shape, weights, zeros, allowed] of [
    ['135m', 'bf16', 0, 1e-2],
    ['135m', 'bf16', 0.7, 1e-2],
    ['135m', 'i8', 0.7, 4e-2],
    ['135m', 'i4', 0.7, 4e-2],
    ['1.1b', 'i8', 0.7, 4e-2],
  ] as const)
    test(`random weights of the ${shape} shape, ${weights}, ${zeros * 100} % zeros: prompts and decoding of 1, 3, 6 and 20 sequences`, {
      timeout: 300_000,
    }, async () => {
      const manifest = randomModel(shape, zeros);
      const cpu = await load(manifest, 'cpu', { weights });
      const references = new Map<number, Float32Array[]>();
      for (const sequences of [1, 3, 6, 20]) references.set(sequences, await run(cpu, sequences, 3));
      for (const deterministic of [false, true]) {
        const gpu = await load(manifest, 'cuda', { weights, deterministic });
        for (const [sequences, reference] of references) {
          const worst = Math.max(...distances(await run(gpu, sequences, 3), reference));
          console.log(
            `${shape}, ${weights}, ${zeros * 100} % zeros, ${sequences} sequences${deterministic ? ', deterministic' : ''}: worst relative error ${worst.toExponential(2)}`,
          );
          expect(worst, `${sequences} sequences, deterministic ${deterministic}`).toBeLessThan(allowed);
        }
      }
    });

  for (const [shape, weights, zeros] of [
    ['135m', 'bf16', 0.7],
    ['135m', 'i8', 0.7],
    ['135m', 'i4', 0.5],
    ['135m', 'bf16', 0],
    ['1.1b', 'i8', 0.7],
  ] as const)
    test(`--deterministic, ${shape}, ${weights}, ${zeros * 100} % zeros: a request alone equals itself in a batch of 16, bit for bit`, {
      timeout: 300_000,
    }, async () => {
      const gpu = await load(randomModel(shape, zeros), 'cuda', { weights, deterministic: true });
      const tokens = ids(3, 77, gpu.info.vocabSize);
      gpu.openSlot(0, GREEDY, tokens, NONE);
      const [prompt] = await logits(gpu, [entry(0, tokens)]);
      const decoded: Float32Array[] = [];
      for (let n = 0; n < 6; ++n)
        decoded.push((await logits(gpu, [entry(0, ids(n, 1, gpu.info.vocabSize), tokens.length + n)]))[0]!);
      const others = Array.from({ length: 15 }, (_, i) => ids(i + 9, 5 + 17 * i, gpu.info.vocabSize));
      for (const [i, other] of others.entries()) gpu.openSlot(i + 1, GREEDY, other, NONE);
      const crowd = others.map((other, i) => entry(i + 1, other));
      const among = await logits(gpu, [...crowd.slice(0, 9), entry(0, tokens), ...crowd.slice(9)]);
      expect(bytes(among[9]!).equals(bytes(prompt!)), 'the prompt').toBe(true);
      for (let n = 0; n < 6; ++n) {
        const next = others.map((other, i) =>
          entry(i + 1, ids(i * n, 1, gpu.info.vocabSize), other.length + n),
        );
        // Every other step a neighbour reads a prompt meanwhile.
        if (n % 2 === 1) next[4] = entry(5, ids(n, 40, gpu.info.vocabSize), others[4]!.length + n);
        const mine = entry(0, ids(n, 1, gpu.info.vocabSize), tokens.length + n);
        const row = (await logits(gpu, [...next.slice(0, 3), mine, ...next.slice(3)]))[3]!;
        expect(bytes(row).equals(bytes(decoded[n]!)), `token ${n}`).toBe(true);
      }
    });
});

describe.skipIf(without)(`caches of a byte an element${without ? ` (${without})` : ''}`, () => {
  for (const [kv, allowed] of [
    ['i8', 2e-2],
    ['fp8', 6e-2],
  ] as const)
    test(`--kv ${kv}: as near the f16 cache as its rounding allows, prompts and decoding of 1, 3 and 20 sequences`, {
      timeout: 300_000,
    }, async () => {
      const manifest = randomModel('135m', 0.7);
      const [wide, narrow] = [
        await load(manifest, 'cuda', { kv: 'f16' }),
        await load(manifest, 'cuda', { kv }),
      ];
      expect(narrow.info.kvBytesPerToken).toBe((wide.info.kvBytesPerToken * (64 + 4)) / 128);
      for (const sequences of [1, 3, 20]) {
        const worst = Math.max(...distances(await run(narrow, sequences, 3), await run(wide, sequences, 3)));
        console.log(`KV ${kv}, ${sequences} sequences: worst relative error ${worst.toExponential(2)}`);
        expect(worst, `${sequences} sequences`).toBeLessThan(allowed);
      }
    });

  test('--kv f32 is refused; blocks are copied with their scales', { timeout: 300_000 }, async () => {
    const manifest = randomModel('135m', 0.7);
    await expect(load(manifest, 'cuda', { kv: 'f32' })).rejects.toThrow(/--kv/);
    const gpu = await load(manifest, 'cuda', { kv: 'i8', deterministic: true });
    const tokens = ids(5, 40, gpu.info.vocabSize);
    for (const slot of [0, 1]) gpu.openSlot(slot, GREEDY, tokens, NONE);
    await logits(gpu, [entry(0, tokens)]);
    const blocks = POSITIONS / 16;
    const copies = [0, 1, 2].map((i) => ({ from: i, to: blocks + i }));
    const next = (slot: number) => entry(slot, ids(9, 1, gpu.info.vocabSize), tokens.length);
    const result = await gpu.stepWithLogits({ entries: [next(1)], copies });
    const [own] = await logits(gpu, [next(0)]);
    expect(bytes(result.logits).equals(bytes(own!))).toBe(true);
  });
});

/** Every step twice: from digests where they will do, and with all logits kept, which are then sampled as whole rows. */
async function expectSameTokens(shape: string, options: Partial<NativeOptions>) {
  const manifest = randomModel(shape, 0.7);
  const [digests, rows] = [
    await load(manifest, 'cuda', { deterministic: true, ...options }),
    await load(manifest, 'cuda', { deterministic: true, ...options }),
  ];
  const hot = { ...GREEDY, temperature: 0.8, seed: 7n };
  const kinds = [
    GREEDY,
    { ...hot, topK: 20 },
    { ...hot, topK: 128, topP: 0.4 },
    { ...hot, topK: 40, minP: 0.02 },
    { ...hot, topK: 129 },
    { ...hot, topP: 0.3 },
    { ...hot, minP: 0.3 },
    { ...hot, minP: 0.1, topP: 0.9 },
    { ...hot, temperature: 0.05, topP: 0.95 },
    hot,
    { ...GREEDY, repetitionPenalty: 1.3 },
    { ...GREEDY, logprobs: 3 },
    { ...hot, topK: 1 },
  ];
  const prompts = kinds.map((_, i) => ids(i + 1, 9 + 13 * i, digests.info.vocabSize));
  for (const [slot, params] of kinds.entries())
    for (const runner of [digests, rows]) runner.openSlot(slot, params, prompts[slot]!, NONE);
  let entries = prompts.map((tokens, slot) => entry(slot, tokens));
  for (let n = 0; n < 24; ++n) {
    const tokens = (await digests.step({ entries, copies: [] })).map((output) => output.token);
    const { outputs } = await rows.stepWithLogits({ entries, copies: [] });
    expect(tokens, `step ${n}`).toEqual(outputs.map((output) => output.token));
    entries = tokens.map((token, slot) => entry(slot, Int32Array.of(token), prompts[slot]!.length + n));
  }
}

describe.skipIf(without)(`digests of logits${without ? ` (${without})` : ''}`, () => {
  test(
    'samplers of every kind draw from them what they draw from whole rows',
    {
      timeout: 300_000,
    },
    () => expectSameTokens('135m', {}),
  );
});

const devices = without === null ? (await nativeGpus()).gpus.length : 0;
const withoutTwo = without ?? (devices < 2 ? 'skipped, there is one GPU' : null);
describe.skipIf(withoutTwo)(`two GPUs beside one${withoutTwo ? ` (${withoutTwo})` : ''}`, () => {
  for (const [shape, weights, zeros] of [
    ['1.1b', 'bf16', 0],
    ['1.1b', 'bf16', 0.7],
    ['1.1b', 'i8', 0.7],
    ['1.1b', 'i4', 0.7],
  ] as const)
    test(`--tensor-parallel 2, ${shape}, ${weights}, ${zeros * 100} % zeros: prompts and decoding of 1, 3 and 20 sequences`, {
      timeout: 300_000,
    }, async () => {
      const manifest = randomModel(shape, zeros);
      const [one, two] = [
        await load(manifest, 'cuda', { weights }),
        await load(manifest, 'cuda', { weights, tensorParallel: 2 }),
      ];
      for (const sequences of [1, 3, 20]) {
        const worst = Math.max(...distances(await run(two, sequences, 3), await run(one, sequences, 3)));
        console.log(
          `${shape}, ${weights}, ${zeros * 100} % zeros, ${sequences} sequences, two GPUs: worst relative error ${worst.toExponential(2)}`,
        );
        // i8 and i4 weights meet activations rounded in blocks of columns, and the columns are divided.
        expect(worst, `${sequences} sequences`).toBeLessThan(weights === 'bf16' ? 1e-2 : 4e-2);
      }
    });

  test('digests of divided rows choose the tokens that whole rows choose', { timeout: 300_000 }, () =>
    expectSameTokens('1.1b', { tensorParallel: 2 }),
  );

  test('--deterministic: a request alone equals itself in a batch of 9, bit for bit', {
    timeout: 300_000,
  }, async () => {
    const gpu = await load(randomModel('1.1b', 0.7), 'cuda', { deterministic: true, tensorParallel: 2 });
    const prompts = Array.from({ length: 9 }, (_, i) => ids(i + 3, 21 + 5 * i, gpu.info.vocabSize));
    gpu.openSlot(0, GREEDY, prompts[0]!, NONE);
    const [alone] = await logits(gpu, [entry(0, prompts[0]!)]);
    for (const [slot, tokens] of prompts.entries()) if (slot > 0) gpu.openSlot(slot, GREEDY, tokens, NONE);
    const among = await logits(gpu, prompts.map((tokens, slot) => entry(slot, tokens)).reverse());
    expect(bytes(among[8]!).equals(bytes(alone!))).toBe(true);
  });
});

const withoutGoldens = without ?? missing(GOLDENS, SMOLLM2);
describe.skipIf(withoutGoldens)(
  `SmolLM2-135M-Instruct on a GPU against the goldens${withoutGoldens ? ` (${withoutGoldens})` : ''}`,
  () => {
    test('logits of the last position: as near the reference as the CPU with bf16 weights', {
      timeout: 300_000,
    }, async () => {
      const manifest = await openModel(SMOLLM2);
      const whole = { maxModelLen: 2048, maxSlots: 1 };
      const [cpu, gpu] = [await load(manifest, 'cpu', whole), await load(manifest, 'cuda', whole)];
      const reference = tensors(join(GOLDENS, 'prompts.safetensors'))('last_logits') as Float32Array;
      for (const [i, prompt] of golden<{ name: string; ids: number[] }[]>('prompts.json').entries()) {
        const tokens = Int32Array.from(prompt.ids);
        const want = [reference.subarray(i * 49_152, (i + 1) * 49_152)];
        const rows: Float32Array[][] = [];
        for (const runner of [cpu, gpu]) {
          runner.openSlot(0, GREEDY, tokens, NONE);
          rows.push(await logits(runner, [entry(0, tokens, 0, whole.maxModelLen)]));
        }
        const [ours, theirs, apart] = [
          distances(rows[1]!, want)[0]!,
          distances(rows[0]!, want)[0]!,
          distances(rows[1]!, rows[0]!)[0]!,
        ];
        console.log(
          `${prompt.name}: GPU ${ours.toExponential(2)}, CPU ${theirs.toExponential(2)} from the reference, ${apart.toExponential(2)} from each other`,
        );
        expect(apart, prompt.name).toBeLessThan(4e-2);
        expect(ours, prompt.name).toBeLessThan(Math.max(2 * theirs, 4e-2));
      }
    });

    test('teacher-forced, the recorded token is on top wherever its margin exceeds 0.5; perplexity within 0.5 %', {
      timeout: 300_000,
    }, async () => {
      const manifest = await openModel(SMOLLM2);
      const gpu = await load(manifest, 'cuda', { maxModelLen: 2048, maxSlots: 2 });
      const wrong: string[] = [];
      for (const p of golden<
        { name: string; ids: number[]; greedy_ids: number[]; greedy_margins: number[] }[]
      >('prompts.json')) {
        const { topIds } = await score(gpu, Int32Array.from([...p.ids, ...p.greedy_ids]), { k: 1 });
        p.greedy_ids.forEach((id, n) => {
          if (p.greedy_margins[n]! > 0.5 && topIds[p.ids.length - 1 + n] !== id) wrong.push(`${p.name} ${n}`);
        });
      }
      expect(wrong).toEqual([]);
      const text = Int32Array.from(Tokenizer.create(manifest.tokenizer).encode(wikitext2().slice(0, 40_000)));
      const theirs = golden<{ window_mean_nll: number[] }>('ppl_wikitext2.json').window_mean_nll.slice(0, 3);
      const whole = await windowMeans(gpu, text, 2048, 3);
      console.log(`perplexity ${perplexity(whole).toFixed(4)}, reference ${perplexity(theirs).toFixed(4)}`);
      expect(Math.abs(perplexity(whole) / perplexity(theirs) - 1)).toBeLessThan(5e-3);
      // Token by token: the kernels of decoding.
      const { logprobs } = await score(gpu, text.subarray(0, 512), { chunk: 1 });
      const chunked = await score(gpu, text.subarray(0, 512));
      expect(Math.abs(mean(logprobs) / mean(chunked.logprobs) - 1)).toBeLessThan(3e-3);
    });
  },
);

const QWEN =
  process.env.FILIGREE_TEST_QWEN ?? join(cacheFolder(), 'models', 'qwen2.5-coder-1.5b-q4_k_m.gguf');
const withoutQwen = without ?? missing(QWEN);
describe.skipIf(withoutQwen)(
  `Qwen2.5-Coder-1.5B on a GPU against the CPU${withoutQwen ? ` (${withoutQwen})` : ''}`,
  () => {
    test('prompts of code: logits near, the same likeliest token; log-likelihoods within 0.3 %, token by token, too', {
      timeout: 300_000,
    }, async () => {
      // Unpacking 1.5 billion weights takes minutes of one processor, twice: what is done is said at once, and what never ends
      // has its name in the error.
      const started = performance.now();
      const lap = async <T>(what: string, work: Promise<T>, seconds = 60): Promise<T> => {
        let timer: NodeJS.Timeout | undefined;
        const late = new Promise<never>((_, reject) => {
          timer = setTimeout(() => reject(new Error(`${what}: not done after ${seconds} s`)), seconds * 1000);
        });
        try {
          return await Promise.race([work, late]);
        } finally {
          clearTimeout(timer);
          process.stdout.write(
            `${what}: ended after ${((performance.now() - started) / 1000).toFixed(1)} s\n`,
          );
        }
      };
      const manifest = await lap('opening', openModel(QWEN));
      // Dense: nobody need count its zeros first.
      const options = { maxModelLen: 1024, maxSlots: 1, dense: true };
      const cpu = await lap('loading, CPU', load(manifest, 'cpu', options), 120);
      const gpu = await lap('loading, GPU', load(manifest, 'cuda', options), 120);
      const tokenizer = Tokenizer.create(manifest.tokenizer);
      const source = readFileSync(fileURLToPath(import.meta.url), 'utf8');
      const text = Int32Array.from(tokenizer.encode(source)).subarray(0, 600);
      for (const length of [7, 64, 257, 600]) {
        const tokens = text.subarray(0, length);
        const rows: Float32Array[] = [];
        for (const [name, runner] of Object.entries({ CPU: cpu, GPU: gpu })) {
          runner.openSlot(0, GREEDY, tokens, NONE);
          const step = logits(runner, [entry(0, tokens, 0, options.maxModelLen)]);
          rows.push((await lap(`prompt of ${length}, ${name}`, step))[0]!);
        }
        const [theirs, ours] = rows as [Float32Array, Float32Array];
        const [apart] = distances([ours], [theirs]) as [number];
        console.log(`${length} tokens: ${apart.toExponential(2)} from each other`);
        expect(apart, `${length} tokens`).toBeLessThan(4e-2);
        const [first, second] = theirs.toSorted((a, b) => b - a) as unknown as [number, number];
        if (first - second > 0.5)
          expect(ours.indexOf(ours.reduce((a, b) => Math.max(a, b)))).toBe(theirs.indexOf(first));
      }
      const reference = mean((await lap('log-likelihoods, CPU', score(cpu, text))).logprobs);
      for (const chunk of [1024, 1]) {
        const scores = lap(`log-likelihoods by ${chunk}, GPU`, score(gpu, text, { chunk }));
        const found = mean((await scores).logprobs);
        console.log(
          `mean log-likelihood ${found.toFixed(5)}, the CPU ${reference.toFixed(5)}, chunks of ${chunk}`,
        );
        expect(Math.abs(found / reference - 1), `chunks of ${chunk}`).toBeLessThan(3e-3);
      }
    });
  },
);
