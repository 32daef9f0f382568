import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GREEDY } from '../../src/engine/model-runner.js';
import { type ModelManifest, openModel } from '../../src/model/index.js';
import {
  loadNativeRunner,
  type NativeOptions,
  type NativeRunner,
  nativeInfo,
} from '../../src/native/index.js';
import { Tokenizer } from '../../src/tokenizer/index.js';
import {
  GOLDENS,
  golden,
  mean,
  missing,
  perplexity,
  SMOLLM2,
  SPARSE70,
  score,
  tensors,
  wikitext2,
  windowMeans,
} from './support.js';

interface Prompt {
  name: string;
  ids: number[];
  greedy_ids: number[];
  greedy_margins: number[];
}

const load = (manifest: ModelManifest, options: Partial<NativeOptions> = {}): Promise<NativeRunner> =>
  loadNativeRunner(manifest, {
    weights: 'f32',
    dense: false,
    kv: 'f32',
    maxModelLen: 2048,
    maxSlots: 2,
    maxBatchedTokens: 2048,
    packedCache: false,
    ...options,
  });

async function lastLogits(runner: NativeRunner, ids: number[]): Promise<Float32Array> {
  const tokens = Int32Array.from(ids);
  runner.openSlot(0, GREEDY, tokens, new Int32Array(0));
  const blockTable = Int32Array.from({ length: Math.ceil(ids.length / 16) }, (_, i) => i);
  const entry = { slot: 0, tokens, position: 0, blockTable, sample: true };
  return (await runner.stepWithLogits({ entries: [entry], copies: [] })).logits;
}

function expectLogits(ours: Float32Array, reference: Float32Array, name: string): void {
  let largest = 0;
  let worst = 0;
  reference.forEach((value, i) => {
    largest = Math.max(largest, Math.abs(value));
    worst = Math.max(worst, Math.abs(value - ours[i]!));
  });
  expect(worst / largest, `${name}: largest difference of logits`).toBeLessThan(2e-3);
}

const without = missing(GOLDENS, SMOLLM2);
describe.skipIf(without)(
  `SmolLM2-135M-Instruct against transformers${without ? ` (${without})` : ''}`,
  () => {
    let manifest: ModelManifest;
    let runner: NativeRunner;
    let text: Int32Array;
    const prompts = without ? [] : golden<Prompt[]>('prompts.json');
    const reference = without ? null : tensors(join(GOLDENS, 'prompts.safetensors'));
    const wiki = without ? null : golden<{ window_mean_nll: number[] }>('ppl_wikitext2.json');

    const referenceLogits = (i: number) =>
      (reference!('last_logits') as Float32Array).subarray(i * 49152, (i + 1) * 49152);

    beforeAll(async () => {
      manifest = await openModel(SMOLLM2);
      runner = await load(manifest);
      // Enough text for the windows below; the whole set is 304,978 tokens.
      text = Int32Array.from(Tokenizer.create(manifest.tokenizer).encode(wikitext2().slice(0, 40_000)));
    });
    afterAll(() => runner?.close());

    for (const [i, prompt] of prompts.entries()) {
      test(`${prompt.name}: logits of the last position within 2e-3 of the largest`, async () => {
        expectLogits(await lastLogits(runner, prompt.ids), referenceLogits(i), prompt.name);
      });

      test(`${prompt.name}: teacher-forced, the recorded token is on top wherever its margin exceeds 0.02`, async () => {
        const tokens = Int32Array.from([...prompt.ids, ...prompt.greedy_ids]);
        const { topIds } = await score(runner, tokens, { k: 1 });
        const wrong = prompt.greedy_ids.flatMap((id, n) =>
          prompt.greedy_margins[n]! > 0.02 && topIds[prompt.ids.length - 1 + n] !== id ? [n] : [],
        );
        expect(wrong).toEqual([]);
      });
    }

    test('perplexity of WikiText-2 within 0.1 % with f32 weights', { timeout: 300_000 }, async () => {
      const windows = 3;
      const ours = await windowMeans(runner, text, 2048, windows);
      const theirs = wiki!.window_mean_nll.slice(0, windows);
      expect(Math.abs(perplexity(ours) / perplexity(theirs) - 1)).toBeLessThan(1e-3);
    });

    test('perplexity of WikiText-2 within 1 % with i8 weights and an f16 cache', {
      timeout: 300_000,
    }, async () => {
      const windows = 3;
      const i8 = await load(manifest, { weights: 'i8', kv: 'f16' });
      try {
        const ours = await windowMeans(i8, text, 2048, windows);
        const theirs = wiki!.window_mean_nll.slice(0, windows);
        expect(Math.abs(perplexity(ours) / perplexity(theirs) - 1)).toBeLessThan(0.01);
      } finally {
        await i8.close();
      }
    });

    test('every instruction set of this machine: logits, and 256 tokens against the recorded likelihoods', {
      timeout: 600_000,
    }, async () => {
      const { isas } = await nativeInfo();
      const nll = tensors(join(GOLDENS, 'ppl_wikitext2_token_nll.safetensors'))('token_nll');
      for (const isa of isas.filter((name) => name !== 'auto')) {
        const other = await load(manifest, { isa });
        try {
          for (const name of ['emptyish_newline', 'prose_whitespace', 'chat_system']) {
            const i = prompts.findIndex((prompt) => prompt.name === name);
            expectLogits(await lastLogits(other, prompts[i]!.ids), referenceLogits(i), `${isa}, ${name}`);
          }
          for (const window of [0, 1]) {
            const { logprobs } = await score(other, text.subarray(window * 2048, window * 2048 + 256));
            const theirs = mean(nll.subarray(window * 2047, window * 2047 + 255));
            expect(Math.abs(Math.exp(-mean(logprobs) - theirs) - 1), `${isa}, window ${window}`).toBeLessThan(
              1e-3,
            );
          }
        } finally {
          await other.close();
        }
      }
    });
  },
);

const withoutSparse = missing(SPARSE70, GOLDENS);
describe.skipIf(withoutSparse)(
  `compressed-tensors sparse-bitmask, 70 % zeros${withoutSparse ? ` (${withoutSparse})` : ''}`,
  () => {
    test('loads sparse; perplexity of the first four 1024-token windows of WikiText-2 is 30.13 within 0.5 %', {
      timeout: 300_000,
    }, async () => {
      const manifest = await openModel(SPARSE70);
      const text = Tokenizer.create(manifest.tokenizer).encode(wikitext2().slice(0, 40_000));
      const runner = await load(manifest, {
        weights: 'bf16',
        kv: 'f16',
        maxModelLen: 1024,
        maxBatchedTokens: 1024,
      });
      try {
        // Of all elements: the embedding, a fifth of them, is dense.
        expect(runner.info.sparsity).toBeGreaterThan(0.5);
        const ours = perplexity(await windowMeans(runner, Int32Array.from(text), 1024, 4));
        expect(Math.abs(ours / 30.13 - 1)).toBeLessThan(5e-3);
      } finally {
        await runner.close();
      }
    });
  },
);
