import { BLOCK_SIZE, GREEDY, type ModelRunner, type StepEntry } from '../src/engine/model-runner.js';

/** Seconds of one measured stretch, and how many tokens it made. */
export interface Stretch {
  seconds: number;
  tokens: number;
}

export const tokensPerSecond = (stretch: Stretch): number => stretch.tokens / stretch.seconds;

export function median(values: number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function percentile(values: number[], share: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))]!;
}

const NO_OUTPUT = new Int32Array(0);

/** Any valid ids do for speed; they differ so that embedding rows are not one cached line. */
function someTokens(count: number, vocabSize: number, offset: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => ((i + 1) * 7919 + offset * 104729) % vocabSize);
}

function blocksOf(sequence: number, tokensAtMost: number): (length: number) => Int32Array {
  const each = Math.ceil(tokensAtMost / BLOCK_SIZE);
  const all = Int32Array.from({ length: each }, (_, i) => sequence * each + i);
  return (length) => all.subarray(0, Math.ceil(length / BLOCK_SIZE));
}

async function prefillSlot(
  runner: ModelRunner,
  slot: number,
  tokens: Int32Array,
  blocks: (n: number) => Int32Array,
) {
  const budget = runner.info.maxBatchedTokens;
  for (let at = 0; at < tokens.length; at += budget) {
    const chunk = tokens.subarray(at, Math.min(at + budget, tokens.length));
    const end = at + chunk.length;
    await runner.step({
      copies: [],
      entries: [
        { slot, tokens: chunk, position: at, blockTable: blocks(end), sample: end === tokens.length },
      ],
    });
  }
}

/** Time of one prompt of `length` tokens, first token included. */
export async function measurePrefill(
  runner: ModelRunner,
  length: number,
  adapter?: string,
): Promise<Stretch> {
  const tokens = someTokens(length, runner.info.vocabSize, 0);
  const blocks = blocksOf(0, length);
  runner.openSlot(0, GREEDY, tokens, NO_OUTPUT, adapter);
  const start = performance.now();
  await prefillSlot(runner, 0, tokens, blocks);
  const seconds = (performance.now() - start) / 1000;
  runner.closeSlot(0);
  return { seconds, tokens: length };
}

/**
 * Time of decode steps of `batch` sequences, each at `context` tokens when the clock starts. Runs for at least
 * `minSeconds` and `minSteps`, at most `maxSteps` (which bounds the context's growth).
 */
export async function measureDecode(
  runner: ModelRunner,
  {
    batch,
    context,
    minSeconds = 0.7,
    minSteps = 8,
    maxSteps = 64,
    adapter,
  }: {
    batch: number;
    context: number;
    minSeconds?: number;
    minSteps?: number;
    maxSteps?: number;
    adapter?: string | undefined;
  },
): Promise<Stretch> {
  const sequences = Array.from({ length: batch }, (_, i) => ({
    blocks: blocksOf(i, context + maxSteps + 1),
    prompt: someTokens(context, runner.info.vocabSize, i),
  }));
  let entries: StepEntry[] = [];
  for (const [slot, { prompt, blocks }] of sequences.entries()) {
    runner.openSlot(slot, GREEDY, prompt, NO_OUTPUT, adapter);
    await prefillSlot(runner, slot, prompt, blocks);
    entries.push({
      slot,
      tokens: Int32Array.of(1 + slot),
      position: context,
      blockTable: blocks(context + 2),
      sample: true,
      next: runner.info.lookAhead ?? false,
    });
  }
  let outputs = await runner.step({ copies: [], entries });
  let steps = 0;
  const start = performance.now();
  while (steps < maxSteps - 1 && (steps < minSteps || performance.now() - start < minSeconds * 1000)) {
    ++steps;
    entries = entries.map((entry, i) => ({
      ...entry,
      tokens: Int32Array.of(outputs[i]!.token),
      position: context + steps,
      blockTable: sequences[i]!.blocks(context + steps + 2),
    }));
    outputs = await runner.step({ copies: [], entries });
  }
  const seconds = (performance.now() - start) / 1000;
  for (const slot of sequences.keys()) runner.closeSlot(slot);
  return { seconds, tokens: steps * batch };
}

/** KV blocks that `measurePrefill` and `measureDecode` need. */
export function blocksNeeded(prompt: number, batch: number, context: number, maxSteps = 64): number {
  return Math.max(Math.ceil(prompt / BLOCK_SIZE), batch * Math.ceil((context + maxSteps + 1) / BLOCK_SIZE));
}
