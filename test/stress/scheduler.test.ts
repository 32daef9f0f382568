import { describe, expect, it } from 'vitest';
import { Engine } from '../../src/engine/engine.js';
import { GREEDY } from '../../src/engine/model-runner.js';
import type { FinishEvent, GenerateRequest } from '../../src/engine/request.js';
import { expectedOutput, FakeRunner, promptLogprob, request } from '../unit/engine/fake-runner.js';
import { random } from '../unit/tokenizer/fixtures.js';

/**
 * Random admissions, cancels, preemptions, failures and sleeping readers over a small cache. The fake model's tokens
 * are a function of what the KV arena holds, so a request's output among others equals its output alone only if every
 * decision of the scheduler was right; the books are checked after every step.
 */

interface Case {
  seed: number;
  requests: number;
  numBlocks: number;
  slots: number;
  budget: number;
  prefixCache: boolean;
  cancels: number;
  failures: number;
  lookAhead?: boolean;
}

const base = {
  requests: 250,
  numBlocks: 24,
  slots: 16,
  budget: 64,
  prefixCache: true,
  cancels: 0,
  failures: 0,
};
const cases: Case[] = [
  { ...base, seed: 1 },
  { ...base, seed: 2, prefixCache: false },
  { ...base, seed: 3, cancels: 0.3 },
  { ...base, seed: 4, cancels: 0.2, failures: 0.02 },
  { ...base, seed: 5, numBlocks: 11, slots: 8, cancels: 0.1 },
  { ...base, seed: 6, numBlocks: 200, slots: 3 },
  { ...base, seed: 7, slots: 1 },
  { ...base, seed: 8, numBlocks: 80, lookAhead: true },
  { ...base, seed: 9, numBlocks: 80, cancels: 0.2, failures: 0.02, lookAhead: true },
  { ...base, seed: 10, numBlocks: 11, slots: 8, cancels: 0.1, lookAhead: true },
  { ...base, seed: 11, numBlocks: 200, lookAhead: true, budget: 512 },
  ...[1, 2, 3, 7, 16, 17, 31, 100, 512].map((budget) => ({
    ...base,
    seed: 100 + budget,
    budget,
    cancels: 0.05,
  })),
];

/** Prompts that often share beginnings, some of them whole. */
function prompts(next: () => number) {
  const trunks = Array.from({ length: 4 }, () => Array.from({ length: 90 }, () => Math.floor(next() * 1000)));
  return () => {
    const trunk = trunks[Math.floor(next() * trunks.length)]!.slice(0, Math.floor(next() * 91));
    const tail = next() < 0.3 ? 0 : Math.floor(next() * 30);
    const ids = [...trunk, ...Array.from({ length: tail }, () => Math.floor(next() * 1000))];
    return Int32Array.from(ids.length === 0 ? [1] : ids);
  };
}

interface Outcome {
  asked: GenerateRequest;
  tokens: number[];
  promptRows: number[] | null;
  finish: FinishEvent;
}

async function run(config: Case): Promise<{ outcomes: Outcome[]; engine: Engine; runner: FakeRunner }> {
  const next = random(config.seed);
  const runner = new FakeRunner({
    numBlocks: config.numBlocks,
    maxSlots: config.slots,
    maxBatchedTokens: config.budget,
    maxModelLen: 160,
    lookAhead: config.lookAhead ?? false,
    beforeStep: async () => {
      if (next() < 0.3) await new Promise((resolve) => setImmediate(resolve));
      if (next() < config.failures) throw new Error('injected');
    },
  });
  const engine = new Engine(runner, {
    maxNumSeqs: config.slots,
    maxNumBatchedTokens: config.budget,
    prefixCache: config.prefixCache,
    queueLimit: 1000,
    queueTokenLimit: 1_000_000,
    cacheEventSeed: 'seed',
  });
  const mirror = mirrorOf(engine);
  let broken: unknown = null;
  engine.on('step', () => {
    try {
      engine.check();
    } catch (error) {
      broken ??= error;
    }
  });
  const draw = prompts(next);
  const outcomes: Promise<Outcome>[] = [];
  while (outcomes.length < config.requests) {
    const prompt = draw();
    const n = next() < 0.2 ? 1 + Math.floor(next() * 5) : 1;
    for (let i = 0; i < n; i++) {
      const sampling = {
        ...GREEDY,
        seed: BigInt(Math.floor(next() * 1000)),
        promptLogprobs: next() < 0.1 ? 1 : -1,
        promptLogprobsFrom: next() < 0.5 ? 1 : 1 + Math.floor(next() * prompt.length),
      };
      const asked = request({
        prompt,
        sampling,
        maxTokens: next() < 0.05 && sampling.promptLogprobs >= 0 ? 0 : 1 + Math.floor(next() * 50),
        stopTokenIds: next() < 0.2 ? [Math.floor(next() * 1000), Math.floor(next() * 1000)] : [],
        priority: next() < 0.2 ? Math.floor(next() * 3) - 1 : 0,
        cacheSalt: next() < 0.2 ? 'other' : undefined,
      });
      outcomes.push(read(asked, next() < config.cancels ? Math.floor(next() * 30) : -1));
    }
    for (let turns = Math.floor(next() * 4); turns > 0; turns--)
      await new Promise((resolve) => setImmediate(resolve));
  }

  async function read(asked: GenerateRequest, cancelAfter: number): Promise<Outcome> {
    const generation = engine.submit(asked);
    const outcome: Partial<Outcome> = { asked, tokens: [], promptRows: null };
    if (cancelAfter === 0) setImmediate(() => generation.cancel());
    for await (const event of generation) {
      if (event.type === 'prompt') outcome.promptRows = [...event.logprobs];
      else if (event.type === 'finish') outcome.finish = event;
      else if (event.type === 'token' && outcome.tokens!.push(event.token) === cancelAfter)
        generation.cancel();
    }
    return outcome as Outcome;
  }

  const settled = await Promise.all(outcomes);
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
  if (broken !== null) throw broken;
  mirror.compare();
  return { outcomes: settled, engine, runner };
}

/** The prefix cache as one sees it who has its events alone. */
function mirrorOf(engine: Engine) {
  const held = new Map<string, string | null>();
  let steps = 0;
  const compare = () => {
    const names = engine.cachedDigests().map((digest) => digest.toString('hex'));
    expect(new Set(held.keys())).toEqual(new Set(names));
    for (const parent of held.values()) if (parent !== null) expect(held.has(parent)).toBe(true);
  };
  engine.on('cache', (events) => {
    for (const event of events) {
      const names = event.digests.map((digest) => digest.toString('hex'));
      if (event.type === 'removed') {
        for (const name of names) if (!held.delete(name)) throw new Error('removed, and was never stored');
        continue;
      }
      if (event.tokens.length !== 16 * names.length) throw new Error('tokens and blocks differ in number');
      let parent = event.parent?.toString('hex') ?? null;
      for (const name of names) {
        if (held.has(name)) throw new Error('stored twice');
        held.set(name, parent);
        parent = name;
      }
    }
    if (steps++ % 16 === 0) compare();
  });
  return { compare };
}

describe('Scheduler under random load', () => {
  let preemptions = 0;
  let hits = 0;

  it.each(cases)('seed $seed: $numBlocks blocks, $slots slots, $budget tokens a step', async (config) => {
    const { outcomes, engine, runner } = await run(config);
    const counts: Record<string, number> = {};
    for (const { asked, tokens, promptRows, finish } of outcomes) {
      counts[finish.finishReason] = (counts[finish.finishReason] ?? 0) + 1;
      const alone = expectedOutput(asked, 160);
      if (finish.finishReason === 'abort' || finish.finishReason === 'error') {
        expect(tokens).toEqual(alone.slice(0, tokens.length));
        continue;
      }
      expect(tokens).toEqual(alone);
      expect(finish.outputTokens).toBe(alone.length);
      const from = asked.sampling.promptLogprobsFrom ?? 1;
      const rows = Array.from({ length: Math.max(0, asked.prompt.length - from) }, (_, i) =>
        Math.fround(promptLogprob(asked.prompt, from - 1 + i)),
      );
      expect(promptRows).toEqual(asked.sampling.promptLogprobs >= 0 ? rows : null);
    }
    if (config.cancels === 0) expect(counts.abort ?? 0).toBe(0);
    if (config.failures === 0) expect(counts.error ?? 0).toBe(0);
    const stats = engine.stats();
    preemptions += stats.preemptions;
    hits += stats.prefixHits;
    expect(stats).toMatchObject({ running: 0, waiting: 0, waitingTokens: 0, usedBlocks: 0 });
    expect(runner.slots.size).toBe(0);
    expect(runner.ahead > 0).toBe(config.lookAhead ?? false);
    expect(runner.foreseen).toBeGreaterThanOrEqual(runner.ahead * (config.cancels > 0 ? 0.6 : 0.9));
    expect(runner.largestStep).toBeLessThanOrEqual(config.budget);
    expect(engine.healthy()).toBe(true);
    engine.check();
  });

  it('has preempted and has hit the prefix cache on the way', () => {
    expect(preemptions).toBeGreaterThan(50);
    expect(hits).toBeGreaterThan(10_000);
  });

  it('gives a request the same tokens alone and among 16, whatever the chunks and the pressure', async () => {
    const next = random(77);
    const draw = prompts(next);
    const asked = Array.from({ length: 17 }, () => request({ prompt: draw(), maxTokens: 40 }));
    for (const budget of [17, 19, 33, 64, 300]) {
      for (const numBlocks of [13, 40, 300]) {
        const runner = new FakeRunner({
          numBlocks,
          maxSlots: 17,
          maxBatchedTokens: budget,
          maxModelLen: 200,
        });
        const engine = new Engine(runner, {
          maxNumSeqs: 17,
          maxNumBatchedTokens: budget,
          prefixCache: true,
          queueLimit: 100,
          queueTokenLimit: 100_000,
        });
        const alone = new FakeRunner({ numBlocks: 20, maxBatchedTokens: budget, maxModelLen: 200 });
        const lonely = new Engine(alone, {
          maxNumSeqs: 1,
          maxNumBatchedTokens: budget,
          prefixCache: false,
          queueLimit: 100,
          queueTokenLimit: 100_000,
        });
        const together = await Promise.all(asked.map((one) => engine.submit(one).result()));
        for (const [i, { tokens }] of together.entries()) {
          expect((await lonely.submit(asked[i]!).result()).tokens).toEqual(tokens);
        }
      }
    }
  });
});
