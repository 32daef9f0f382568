import { expect, test } from 'vitest';
import { GREEDY, type StepEntry, type StepOutput } from '../../src/engine/model-runner.js';
import type { NativeRunner } from '../../src/native/index.js';
import { entry, expectSameBits, greedy, load, manifest, prompt } from './support.js';

/**
 * A step begun before it is asked for gives the bits of one that is not. Runners with `lookAhead` take each step beside one without.
 * (On the CPU nobody begins steps ahead, as nothing would compute meanwhile; here it is asked to.)
 */

const SLOTS = [0, 1, 2];
const prompts = SLOTS.map((slot) => prompt(slot + 1, 13 + slot));

async function pair() {
  const runners = [await load({ lookAhead: true }), await load({ lookAhead: false })] as const;
  expect(runners.map((runner) => runner.info.lookAhead)).toEqual([true, false]);
  for (const runner of runners) for (const slot of SLOTS) greedy(runner, slot, prompts[slot]!);
  return runners;
}

/** The same step on both: the outputs, and how many of its entries the first had begun. */
async function both(
  [ahead, plain]: readonly [NativeRunner, NativeRunner],
  entries: StepEntry[],
): Promise<{ outputs: StepOutput[]; begun: number }> {
  const record = { entries, copies: [] };
  const [one, other] = [await ahead.stepWithLogits(record), await plain.stepWithLogits(record)];
  expectSameBits(one.logits, other.logits);
  expect(one.outputs).toEqual(other.outputs);
  expect(plain.ahead).toBe(0);
  return { outputs: one.outputs, begun: ahead.ahead };
}

const going = (slot: number, tokens: Int32Array, position = 0): StepEntry => ({
  ...entry(slot, tokens, position),
  next: true,
});
const start = () => SLOTS.map((slot) => going(slot, prompts[slot]!));
const after = (outputs: StepOutput[], steps: number) =>
  outputs.map(({ slot, token }) => going(slot, Int32Array.of(token), prompts[slot]!.length + steps));

test('what was announced is begun, over the ends of blocks, in any order', async () => {
  const runners = await pair();
  let { outputs, begun } = await both(runners, start());
  expect(begun).toBe(0);
  for (let step = 0; step < 40; step++) {
    const entries = after(outputs, step);
    if (step % 3 === 1) entries.reverse();
    ({ outputs, begun } = await both(runners, entries));
    expect(begun).toBe(3);
    outputs = outputs.toSorted((a, b) => a.slot - b.slot);
  }
});

test('what is not asked for is dropped; what was not announced is computed beside the rest', async () => {
  const runners = await pair();
  let { outputs } = await both(runners, start());
  // One has left, and a newcomer brings a prompt.
  for (const runner of runners) greedy(runner, 5, prompt(9, 40));
  const second = await both(runners, [going(5, prompt(9, 40)), ...after(outputs.slice(1), 0)]);
  expect(second.begun).toBe(2);
  // The one that paused comes back, with the others and without.
  const third = await both(runners, [...after(outputs.slice(0, 1), 0), ...after(second.outputs.slice(1), 1)]);
  expect(third.begun).toBe(2);
  outputs = third.outputs;
  expect((await both(runners, after(outputs.slice(0, 1), 1))).begun).toBe(1);
});

test('another token, position or table is not taken for the one begun', async () => {
  const started = async () => {
    const runners = await pair();
    const { outputs } = await both(runners, start());
    return { runners, entries: after(outputs, 0) as [StepEntry, StepEntry, StepEntry] };
  };
  const { runners, entries } = await started();
  const [first, second] = entries;
  const token = (first.tokens[0]! + 1) % manifest.config.vocabSize;
  const changed = [
    { ...first, tokens: Int32Array.of(token) },
    { ...second, position: second.position - 1 },
  ];
  expect((await both(runners, changed)).begun).toBe(0);

  // In the third one's blocks, which hold more tokens than it reads there.
  const again = await started();
  const [, other, third] = again.entries;
  expect((await both(again.runners, [{ ...other, blockTable: third.blockTable }])).begun).toBe(0);
});

test('a slot that was opened anew has begun nothing', async () => {
  const runners = await pair();
  const { outputs } = await both(runners, start());
  for (const runner of runners) {
    runner.closeSlot(1);
    greedy(runner, 1, prompts[1]!);
  }
  expect((await both(runners, after(outputs, 0))).begun).toBe(2);
});

test('nothing is begun where it was held, has no room, ends, is constrained or was not announced', async () => {
  const runners = await pair();
  const [ahead] = runners;
  const running = ahead.step({ entries: start(), copies: [] });
  ahead.holdBack();
  const held = await running;
  await runners[1].step({ entries: start(), copies: [] });
  // The step in flight may have ended before it heard of it.
  await both(
    runners,
    after(held, 0).map((e) => ({ ...e, next: false })),
  );

  const [again] = await pair();
  const short: StepEntry[] = start().map((e) => ({ ...e, blockTable: e.blockTable.slice(0, 1) }));
  short[2] = going(2, prompts[2]!);
  const tokens = await again.step({ entries: short.slice(0, 2), copies: [] });
  expect(tokens.map(({ error }) => error)).toEqual([null, null]);
  await again.step({ entries: after(tokens, 0), copies: [] });
  // Prompts of 13 and 14 tokens: the block has room for one token more.
  expect(again.ahead).toBe(2);
});

test('draws stay where they are in their stream, and penalties count what was drawn', async () => {
  const runners = [await load({ lookAhead: true }), await load({ lookAhead: false })] as const;
  const params = { ...GREEDY, temperature: 0.9, topP: 0.9, seed: 5n, repetitionPenalty: 1.2, logprobs: 3 };
  for (const runner of runners) for (const slot of SLOTS) greedy(runner, slot, prompts[slot]!, params);
  let { outputs } = await both(runners, start());
  for (let step = 0; step < 20; step++) {
    const next = await both(runners, after(outputs, step));
    expect(next.begun).toBe(3);
    outputs = next.outputs;
  }
});

test('log-probabilities of the prompt and pooled states are computed where they are asked for', async () => {
  const runners = await pair();
  for (const runner of runners) greedy(runner, 7, prompt(3, 30), { promptLogprobs: 2 });
  const piece = prompt(3, 30);
  await both(runners, [going(7, piece.subarray(0, 17))]);
  const { outputs } = await both(runners, [going(7, piece.subarray(17), 17)]);
  expect(outputs[0]!.prompt!.logprobs.length).toBe(12);
});
