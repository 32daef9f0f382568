import { Engine } from '../../../src/engine/engine.js';
import type { EvalModel } from '../../../src/eval/index.js';
import { type FakeOptions, FakeRunner } from '../engine/fake-runner.js';
import { byteTokenizer, EOS } from '../server/fixture.js';

/** A model of bytes whose likelihoods are hashes: what matters is which tokens were asked for, and how often computed. */
export function fakeModel(options: FakeOptions = {}): { model: EvalModel; runner: FakeRunner } {
  const runner = new FakeRunner({ numBlocks: 256, ...options });
  const engine = new Engine(runner, {
    maxNumSeqs: 16,
    maxNumBatchedTokens: 64,
    prefixCache: true,
    queueLimit: 1000,
    queueTokenLimit: 1_000_000,
  });
  const tokenizer = byteTokenizer();
  return { model: { name: 'fake', engine, tokenizer, template: null, eosTokenIds: [EOS] }, runner };
}
