import type { TokenTable } from '../engine/model-runner.js';
import type { Tokenizer } from '../tokenizer/index.js';

/** Work done between two turns of the event loop. */
const SLICE_MS = 4;

/**
 * A tokenizer's tokens as bytes; the event loop turns meanwhile.
 * @param vocabSize of the model, which may be padded beyond the tokenizer's
 */
export async function tokenTable(
  tokenizer: Tokenizer,
  vocabSize: number,
  ends: readonly number[],
): Promise<TokenTable> {
  const parts: Uint8Array[] = [];
  const offsets = new Int32Array(vocabSize + 1);
  const control: number[] = [];
  let size = 0;
  let sliceEnd = performance.now() + SLICE_MS;
  for (let id = 0; id < vocabSize; id++) {
    if (id % 64 === 0 && performance.now() > sliceEnd) {
      await new Promise((resolve) => setImmediate(resolve));
      sliceEnd = performance.now() + SLICE_MS;
    }
    // An added token's text is its own: `<tool_call>` is written by a constraint that names it, not spelled.
    if (tokenizer.isControl(id) || tokenizer.isAdded(id)) control.push(id);
    else if (id < tokenizer.vocabSize) {
      const bytes = tokenizer.tokenBytes(id);
      parts.push(bytes);
      size += bytes.length;
    }
    offsets[id + 1] = size;
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return {
    bytes,
    offsets,
    control: Int32Array.from(control),
    ends: Int32Array.from(ends.filter((id) => id < vocabSize)),
    stripsLeadingSpace: tokenizer.rule.stripsLeadingSpace,
  };
}
