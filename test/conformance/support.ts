import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GREEDY, type ModelRunner, type StepOutput } from '../../src/engine/model-runner.js';
import { cacheFolder } from '../../src/model/index.js';

/** Reference data and models beside the repository; not part of it. */
export const SHARED = fileURLToPath(new URL('../../../shared', import.meta.url));
export const GOLDENS = join(SHARED, 'goldens', 'dev');
export const SPARSE70 = join(SHARED, 'models', 'smollm2-135m-sparse70');
export const SMOLLM2 = join(cacheFolder(), 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf');

/** What is missing for the tests on goldens, or null. Shown in the name of the suite that is skipped. */
export function missing(...paths: string[]): string | null {
  const absent = paths.filter((path) => !existsSync(path));
  return absent.length > 0 ? `skipped, not there: ${absent.join(', ')}` : null;
}

export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(join(GOLDENS, name), 'utf8')) as T;
}

/** The f32 and i32 tensors of a safetensors file that tests trust. */
export function tensors(path: string): (name: string) => Float32Array | Int32Array {
  const bytes = readFileSync(path);
  const headBytes = Number(bytes.readBigUInt64LE(0));
  const head = JSON.parse(bytes.subarray(8, 8 + headBytes).toString()) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >;
  return (name) => {
    const entry = head[name];
    if (!entry) throw new Error(`${path} holds no ${name}`);
    const [begin, end] = entry.data_offsets;
    const data = new Uint8Array(bytes.subarray(8 + headBytes + begin, 8 + headBytes + end)).buffer;
    return entry.dtype === 'F32' ? new Float32Array(data) : new Int32Array(data);
  };
}

/** WikiText-2's test set in SparseGPT's form: "\n\n".join of the rows. */
export function wikitext2(): string {
  const text = readFileSync(join(SHARED, 'data', 'eval', 'wikitext2_raw_test.txt'), 'utf8');
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map((line) => (line === ' ' ? '' : `${line}\n`)).join('\n\n');
}

export interface PromptScores {
  /** Log-probability of tokens[i + 1] given tokens[0 .. i]. */
  logprobs: Float32Array;
  /** The k likeliest after each position but the last, [rows][k]. */
  topIds: Int32Array;
  outputs: StepOutput[];
}

const blocksFor = (tokens: number) => Int32Array.from({ length: Math.ceil(tokens / 16) }, (_, i) => i);

/** Log-probabilities of a text under the model, alone in slot 0, in chunks of the given size. */
export async function score(
  runner: ModelRunner,
  tokens: Int32Array,
  { k = 0, chunk = runner.info.maxBatchedTokens } = {},
): Promise<PromptScores> {
  const logprobs = new Float32Array(tokens.length - 1);
  const topIds = new Int32Array((tokens.length - 1) * k);
  const outputs: StepOutput[] = [];
  runner.openSlot(0, { ...GREEDY, promptLogprobs: k }, tokens, new Int32Array(0));
  for (let at = 0; at < tokens.length; at += chunk) {
    const piece = tokens.subarray(at, at + chunk);
    const blockTable = blocksFor(at + piece.length);
    const [output] = await runner.step({
      entries: [{ slot: 0, tokens: piece, position: at, blockTable, sample: false }],
      copies: [],
    });
    logprobs.set(output!.prompt!.logprobs, at);
    topIds.set(output!.prompt!.topIds, at * k);
    outputs.push(output!);
  }
  runner.closeSlot(0);
  return { logprobs, topIds, outputs };
}

/** Mean negative log-likelihood of each window: window = stride. */
export async function windowMeans(
  runner: ModelRunner,
  tokens: Int32Array,
  window: number,
  count: number,
): Promise<number[]> {
  const means: number[] = [];
  for (let w = 0; w < count; w++) {
    const { logprobs } = await score(runner, tokens.subarray(w * window, (w + 1) * window));
    means.push(-logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length);
  }
  return means;
}

export const perplexity = (means: number[]): number =>
  Math.exp(means.reduce((sum, mean) => sum + mean, 0) / means.length);

export const mean = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
