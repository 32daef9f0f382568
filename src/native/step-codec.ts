import type {
  PromptLogprobs,
  RowError,
  StepOutput,
  StepRecord,
  TopLogprobs,
} from '../engine/model-runner.js';
import { type NativeStepResult, OUTPUT_FIELDS, ROW_STATUS } from './addon-types.js';

/** A record as flat arrays: one crossing into native code, whatever the number of entries. */
export interface FlatRecord {
  entries: Int32Array;
  tokens: Int32Array;
  blocks: Int32Array;
  copies: Int32Array;
}

const ROW_ERROR: Readonly<Record<number, RowError>> = {
  [ROW_STATUS.nonFiniteLogits]: 'non_finite_logits',
  [ROW_STATUS.noTokenAllowed]: 'no_token_allowed',
  [ROW_STATUS.constraintFailed]: 'constraint_failed',
};
const NO_COPIES = new Int32Array(0);

export function flatten(record: StepRecord): FlatRecord {
  let tokenCount = 0;
  let blockCount = 0;
  for (const entry of record.entries) {
    tokenCount += entry.tokens.length;
    blockCount += entry.blockTable.length;
  }
  const entries = new Int32Array(record.entries.length * 5);
  const tokens = new Int32Array(tokenCount);
  const blocks = new Int32Array(blockCount);
  let token = 0;
  let block = 0;
  let at = 0;
  for (const entry of record.entries) {
    entries[at++] = entry.slot;
    entries[at++] = entry.position;
    entries[at++] = entry.tokens.length;
    entries[at++] = entry.blockTable.length;
    entries[at++] = entry.sample ? (entry.next ? 2 : 1) : 0;
    tokens.set(entry.tokens, token);
    blocks.set(entry.blockTable, block);
    token += entry.tokens.length;
    block += entry.blockTable.length;
  }
  let copies = NO_COPIES;
  if (record.copies.length > 0) {
    copies = new Int32Array(record.copies.length * 2);
    record.copies.forEach((copy, i) => {
      copies[2 * i] = copy.from;
      copies[2 * i + 1] = copy.to;
    });
  }
  return { entries, tokens, blocks, copies };
}

/**
 * The outputs of a step, in the order of its entries. Their arrays are views of the result's.
 *
 * @param wantsTop whether the slot asked for log-probabilities
 */
export function unflatten(
  record: StepRecord,
  result: NativeStepResult,
  wantsTop: (slot: number) => boolean,
  hiddenSize: number,
): StepOutput[] {
  return record.entries.map((entry, i) => {
    const field = i * OUTPUT_FIELDS.length;
    const number = (offset: number): number => result.outputs[field + offset]!;
    const token = number(0);
    const status = number(1);
    let top: TopLogprobs | null = null;
    if (token >= 0 && wantsTop(entry.slot)) {
      const begin = number(3);
      const end = begin + number(2);
      top = { ids: result.topIds.subarray(begin, end), logprobs: result.topLogprobs.subarray(begin, end) };
    }
    let prompt: PromptLogprobs | null = null;
    const k = number(5);
    if (k >= 0) {
      const rows = number(4);
      const begin = number(6);
      const topBegin = number(7);
      prompt = {
        logprobs: result.promptLogprobs.subarray(begin, begin + rows),
        topIds: result.promptTopIds.subarray(topBegin, topBegin + rows * k),
        topLogprobs: result.promptTopLogprobs.subarray(topBegin, topBegin + rows * k),
        k,
      };
    }
    const error = ROW_ERROR[status] ?? null;
    const row = number(8);
    const size = row < 0 ? 0 : hiddenSize;
    const pooled = row < 0 ? null : result.pooled.slice(row * size, (row + 1) * size);
    const forced = result.forcedTokens.subarray(number(10), number(10) + number(9));
    return { slot: entry.slot, token, logprob: result.logprobs[i]!, top, prompt, pooled, forced, error };
  });
}
