import { fileURLToPath } from 'node:url';
import { afterEach, expect } from 'vitest';
import { GREEDY, type SamplingParams, type StepEntry } from '../../src/engine/model-runner.js';
import { type ModelManifest, openModel } from '../../src/model/index.js';
import { loadNativeRunner, type NativeOptions, type NativeRunner } from '../../src/native/index.js';
import { ON_DEVICE } from '../device.js';

/** A model of a few kilobytes on the real addon, and steps of it by hand. */
export const manifest = await openModel(
  fileURLToPath(new URL('../fixtures/models/tiny.gguf', import.meta.url)),
);
export const NONE = new Int32Array(0);

const open: NativeRunner[] = [];
afterEach(async () => {
  for (const runner of open.splice(0)) await runner.close();
});

/** A runner that is closed when the test ends. */
export async function load(
  options: Partial<NativeOptions> = {},
  model: ModelManifest = manifest,
): Promise<NativeRunner> {
  const runner = await loadNativeRunner(model, {
    ...ON_DEVICE,
    weights: 'i8',
    dense: false,
    kv: 'f16',
    threads: 2,
    maxModelLen: 128,
    maxSlots: 20,
    maxBatchedTokens: 256,
    kvMemory: 64 << 20,
    packedCache: false,
    ...options,
  });
  open.push(runner);
  return runner;
}

export const prompt = (seed: number, length: number): Int32Array =>
  Int32Array.from(
    { length },
    (_, i) => (seed * 7919 + i * 104729 + ((i * i) % 13)) % manifest.config.vocabSize,
  );

/** Blocks [first, first + 8): room for 128 tokens. */
const blocks = (first: number) => Int32Array.from({ length: 8 }, (_, i) => first + i);

export const entry = (slot: number, tokens: Int32Array, position = 0, first = slot * 8): StepEntry => ({
  slot,
  tokens,
  position,
  blockTable: blocks(first),
  sample: true,
});

export async function logitsOf(runner: NativeRunner, entries: StepEntry[]): Promise<Float32Array[]> {
  const { logits } = await runner.stepWithLogits({ entries, copies: [] });
  const sampled = entries.filter((e) => e.sample).length;
  const size = logits.length / sampled;
  return Array.from({ length: sampled }, (_, i) => logits.slice(i * size, (i + 1) * size));
}

export const greedy = (
  runner: NativeRunner,
  slot: number,
  tokens: Int32Array,
  params: Partial<SamplingParams> = {},
) => runner.openSlot(slot, { ...GREEDY, ...params }, tokens, NONE);

const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
export const expectSameBits = (a: Float32Array, b: Float32Array) =>
  expect(bytes(a).equals(bytes(b))).toBe(true);
