import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../src/engine/engine.js';
import { GREEDY, type ModelRunner } from '../../src/engine/model-runner.js';
import type { FinishEvent, GenerateRequest } from '../../src/engine/request.js';
import { openModel } from '../../src/model/index.js';
import { loadNativeRunner, type NativeRunner } from '../../src/native/index.js';
import { missing, SMOLLM2 } from '../conformance/support.js';
import { ON_DEVICE } from '../device.js';
import { request } from '../unit/engine/fake-runner.js';
import { random } from '../unit/tokenizer/fixtures.js';

/**
 * What the scheduler promises, on the real engine: a request alone gives the same tokens with the same log-probabilities,
 * bit for bit, as among 16 others, with prefix hits, in chunks of any size, and computed again after preemptions.
 */
const TINY = fileURLToPath(new URL('../fixtures/models/tiny.gguf', import.meta.url));
const MAX_MODEL_LEN = 128;
const SEQUENCES = 17;

interface Pressure {
  budget: number;
  blocks: number;
  sequences?: number;
  prefixCache?: boolean;
}

interface Output {
  tokens: number[];
  logprobs: number[];
  promptLogprobs: number[];
  finish: FinishEvent;
}

/** The engine over a part of the runner's arena. */
function engineOver(runner: NativeRunner, { budget, blocks, sequences, prefixCache }: Pressure): Engine {
  const part: ModelRunner = Object.create(runner, {
    info: { value: { ...runner.info, numBlocks: blocks } },
  });
  return new Engine(part, {
    maxNumSeqs: sequences ?? SEQUENCES,
    maxNumBatchedTokens: budget,
    prefixCache: prefixCache ?? true,
    queueLimit: 10_000,
    queueTokenLimit: 10_000_000,
  });
}

async function read(engine: Engine, asked: GenerateRequest, cancelAfter = -1): Promise<Output> {
  const generation = engine.submit(asked);
  const output: Output = {
    tokens: [],
    logprobs: [],
    promptLogprobs: [],
    finish: null as unknown as FinishEvent,
  };
  if (cancelAfter === 0) setImmediate(() => generation.cancel());
  for await (const event of generation) {
    if (event.type === 'prompt') output.promptLogprobs = [...event.logprobs];
    else if (event.type === 'finish') output.finish = event;
    else if (event.type === 'token') {
      output.tokens.push(event.token);
      output.logprobs.push(event.logprob);
      if (output.tokens.length === cancelAfter) generation.cancel();
    }
  }
  return output;
}

/** Requests of which many share beginnings, sampled and greedy, some with log-probabilities of the prompt. */
function requests(count: number, vocabSize: number, seed: number, longest: number): GenerateRequest[] {
  const next = random(seed);
  const token = () => Math.floor(next() * vocabSize);
  const trunks = Array.from({ length: 3 }, () => Array.from({ length: longest }, token));
  return Array.from({ length: count }, () => {
    const trunk = trunks[Math.floor(next() * 3)]!.slice(0, 1 + Math.floor(next() * longest));
    const tail = Array.from({ length: Math.floor(next() * 12) }, token);
    return request({
      prompt: Int32Array.from([...trunk, ...tail]),
      maxTokens: 1 + Math.floor(next() * longest),
      sampling: {
        ...GREEDY,
        temperature: next() < 0.5 ? 0 : 1,
        seed: BigInt(Math.floor(next() * 1000)),
        logprobs: 0,
        promptLogprobs: next() < 0.2 ? 0 : -1,
        repetitionPenalty: next() < 0.3 ? 1.3 : 1,
      },
    });
  });
}

async function alone(runner: NativeRunner, asked: GenerateRequest[]): Promise<Output[]> {
  const engine = engineOver(runner, { budget: 512, blocks: 32, sequences: 1, prefixCache: false });
  const outputs: Output[] = [];
  for (const one of asked) outputs.push(await read(engine, one));
  return outputs;
}

const models = [
  {
    ...{ name: 'a model of a few kilobytes', path: TINY, without: null },
    ...{ budgets: [17, 29, 64, 512], distinct: 24, total: 3000 },
  },
  {
    ...{ name: 'the same model, steps begun ahead', path: TINY, without: null, lookAhead: true },
    ...{ budgets: [17, 64, 512], distinct: 24, total: 1500 },
  },
  {
    ...{ name: 'SmolLM2-135M-Instruct', path: SMOLLM2, without: missing(SMOLLM2) },
    ...{ budgets: [17, 64], distinct: 8, total: 30 },
  },
];
for (const { name, path, without, budgets, distinct, total, ...options } of models)
  describe.skipIf(without)(`The engine on ${name}${without ? ` (${without})` : ''}`, () => {
    let runner: NativeRunner;
    beforeAll(async () => {
      runner = await loadNativeRunner(await openModel(path), {
        ...ON_DEVICE,
        weights: 'i8',
        dense: false,
        kv: 'f16',
        threads: 2,
        maxModelLen: MAX_MODEL_LEN,
        maxSlots: SEQUENCES,
        maxBatchedTokens: 512,
        packedCache: false,
        ...options,
      });
    });
    afterAll(() => runner?.close());

    it('gives a request the same bits alone and among 16, with prefix hits, in any chunks, when preempted', async () => {
      const asked = requests(SEQUENCES, runner.info.vocabSize, 1, 50);
      const expected = await alone(runner, asked);
      let preemptions = 0;
      let hits = 0;
      for (const budget of budgets) {
        for (const blocks of budget === 64 ? [80, 8] : [8]) {
          const engine = engineOver(runner, { budget, blocks });
          engine.on('step', () => engine.check());
          const outputs = await Promise.all(asked.map((one) => read(engine, one)));
          for (const [i, output] of outputs.entries()) {
            const where = `request ${i}, ${budget} tokens a step, ${blocks} blocks`;
            expect(output.tokens, where).toEqual(expected[i]!.tokens);
            expect(output.logprobs, where).toEqual(expected[i]!.logprobs);
            expect(output.promptLogprobs, where).toEqual(expected[i]!.promptLogprobs);
          }
          const stats = engine.stats();
          expect(stats).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, failedSteps: 0 });
          preemptions += stats.preemptions;
          hits += stats.prefixHits;
          engine.check();
        }
      }
      expect(preemptions).toBeGreaterThan(5);
      expect(hits).toBeGreaterThan(100);
    }, 300_000);

    it('keeps exact books over random admissions, cancels and preemptions', async () => {
      const next = random(9);
      const asked = requests(distinct, runner.info.vocabSize, 2, 50);
      const expected = await alone(runner, asked);
      const engine = engineOver(runner, { budget: 48, blocks: 10, sequences: 12 });
      let broken: unknown = null;
      engine.on('step', () => {
        try {
          engine.check();
        } catch (error) {
          broken ??= error;
        }
      });
      const pending: Promise<void>[] = [];
      let cancelled = 0;
      for (let i = 0; i < total; i++) {
        const which = Math.floor(next() * distinct);
        const cancelAfter = next() < 0.25 ? Math.floor(next() * 12) : -1;
        pending.push(
          read(engine, { ...asked[which]!, priority: Math.floor(next() * 3) }, cancelAfter).then((output) => {
            const { tokens, logprobs } = expected[which]!;
            if (output.finish.finishReason === 'abort') cancelled++;
            else expect(output.tokens.length).toBe(tokens.length);
            expect(output.tokens).toEqual(tokens.slice(0, output.tokens.length));
            expect(output.logprobs).toEqual(logprobs.slice(0, output.logprobs.length));
          }),
        );
        if (next() < 0.3) await new Promise((resolve) => setImmediate(resolve));
        if (engine.stats().waiting > 100) await Promise.race(pending.slice(-50));
      }
      await Promise.all(pending);
      for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
      if (broken !== null) throw broken;
      const stats = engine.stats();
      expect(stats).toMatchObject({
        running: 0,
        waiting: 0,
        waitingTokens: 0,
        usedBlocks: 0,
        failedSteps: 0,
      });
      expect(stats.preemptions).toBeGreaterThan(total / 10);
      expect(cancelled).toBeGreaterThan(total / 20);
      expect(stats.prefixHits).toBeGreaterThan(total);
      engine.check();
    }, 300_000);
  });
