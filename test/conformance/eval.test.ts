import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine } from '../../src/engine/engine.js';
import { DataFolder, type EvalModel, evaluate, tasksNamed } from '../../src/eval/index.js';
import { openModel } from '../../src/model/index.js';
import { loadNativeRunner } from '../../src/native/index.js';
import { Tokenizer } from '../../src/tokenizer/index.js';
import { GOLDENS, golden, mean, missing, SHARED, SMOLLM2, tensors } from './support.js';

interface Scores {
  summary_200: Record<string, number>;
  items: { ll: number[]; gold: number; choice: number; choice_norm?: number }[];
}

const ITEMS = 5;
const data = join(SHARED, 'data', 'eval');
const without = missing(GOLDENS, SMOLLM2, data);

describe.skipIf(without)(`eval against transformers${without ? ` (${without})` : ''}`, () => {
  let model: EvalModel;
  beforeAll(async () => {
    const manifest = await openModel(SMOLLM2);
    const size = { maxModelLen: 2048, maxSlots: 16, maxBatchedTokens: 512 };
    const runner = await loadNativeRunner(manifest, {
      weights: 'f32',
      kv: 'f32',
      dense: false,
      packedCache: false,
      ...size,
    });
    const engine = new Engine(runner, {
      maxNumSeqs: 16,
      maxNumBatchedTokens: 512,
      prefixCache: true,
      queueLimit: 1000,
      queueTokenLimit: 1_000_000,
    });
    const tokenizer = Tokenizer.create(manifest.tokenizer);
    model = { name: 'smollm2', engine, tokenizer, template: null, eosTokenIds: [2] };
  });
  afterAll(() => model?.engine.close());

  const run = async (name: string, limit: number, window?: number) => {
    const options = { data: new DataFolder(data), limit, window, chat: false, allowCode: false };
    const [result] = await evaluate(model, tasksNamed([name]), options);
    return result!.samples;
  };

  for (const name of ['hellaswag', 'arc_easy', 'arc_challenge', 'winogrande'])
    test(`${name}: log-likelihoods within 2e-3, the same choices`, { timeout: 120_000 }, async () => {
      const { items } = golden<Scores>(`scores_${name}.json`);
      for (const { index, detail } of await run(name, ITEMS)) {
        const theirs = items[index]!;
        const ours = detail as unknown as Scores['items'][number];
        for (const [i, ll] of theirs.ll.entries()) expect(Math.abs(ours.ll[i]! - ll)).toBeLessThan(2e-3);
        expect([ours.gold, ours.choice, ours.choice_norm]).toEqual([
          theirs.gold,
          theirs.choice,
          theirs.choice_norm,
        ]);
      }
    });

  test('wikitext2: the first window, and perplexity from it, within 1e-3', { timeout: 120_000 }, async () => {
    // Half of the reference's window: nothing before a token depends on what comes after it.
    const [sample] = await run('wikitext2', 1, 1024);
    const theirs = tensors(join(GOLDENS, 'ppl_wikitext2_token_nll.safetensors'))('token_nll');
    expect(Math.abs(sample!.values.perplexity! - mean(theirs.subarray(0, 1023)))).toBeLessThan(1e-3);
  });
});
