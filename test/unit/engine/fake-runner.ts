import {
  BLOCK_SIZE,
  GREEDY,
  type ModelRunner,
  type RowError,
  type RunnerInfo,
  type SamplingParams,
  type StepOutput,
  type StepRecord,
} from '../../../src/engine/model-runner.js';
import type { GenerateRequest } from '../../../src/engine/request.js';

export const VOCAB = 1000;

export interface FakeOptions {
  numBlocks?: number;
  maxSlots?: number;
  maxBatchedTokens?: number;
  maxModelLen?: number;
  /** Called before each step; may throw to fail it, or return a promise to delay it. */
  beforeStep?: (step: number, record: StepRecord) => void | Promise<void>;
  /** The row whose context ends with this token fails, with `poisonError` (values that are not finite, unless said). */
  poison?: number;
  poisonError?: RowError;
  /** Computes what is announced as `next` before the step returns, as a GPU does meanwhile. */
  lookAhead?: boolean;
}

interface Slot {
  params: SamplingParams;
  prompt: Int32Array;
  /** Every token the slot should hold: prompt, then output. */
  history: number[];
}

/**
 * A model whose next token is a hash of the whole history, read from the KV arena it is given: the arena holds, at
 * every block and place, which token was computed there and what stood before it. A wrong block table, a block
 * that was overwritten or shared wrongly, a chunk at a wrong position: each changes the tokens, and mostly throws first.
 */
export class FakeRunner implements ModelRunner {
  readonly info: RunnerInfo;
  readonly slots = new Map<number, Slot>();
  steps = 0;
  largestStep = 0;
  computedTokens = 0;
  copies = 0;
  /** Tokens computed before they were asked for, and those of them that the next step asked for. */
  ahead = 0;
  foreseen = 0;
  closed = false;
  private running = false;
  private held = false;
  /** By slot: position and token of what was computed ahead. */
  private begun = new Map<number, string>();
  /** Token at each place of the arena, and the hash of the history up to and including it. */
  private readonly arena: Int32Array;
  private readonly chain: Int32Array;

  constructor(private readonly options: FakeOptions = {}) {
    const numBlocks = options.numBlocks ?? 64;
    this.arena = new Int32Array(numBlocks * BLOCK_SIZE).fill(-1);
    this.chain = new Int32Array(numBlocks * BLOCK_SIZE);
    this.info = {
      vocabSize: VOCAB,
      hiddenSize: 8,
      maxModelLen: options.maxModelLen ?? 512,
      blockSize: 16,
      numBlocks,
      maxSlots: options.maxSlots ?? 16,
      maxBatchedTokens: options.maxBatchedTokens ?? 64,
      threads: 1,
      device: 'cpu',
      isa: 'fake',
      weightBytes: 0,
      decodeWeightBytes: 0,
      denseF32Bytes: 0,
      sparsity: 0,
      formats: {},
      kvType: 'f32',
      kvBytes: 0,
      kvBytesPerToken: 0,
      loadMs: 0,
      fromCache: false,
      lookAhead: options.lookAhead ?? false,
    };
  }

  openSlot(slot: number, params: SamplingParams, prompt: Int32Array, output: Int32Array): void {
    if (this.slots.has(slot)) throw new Error(`slot ${slot} is open already`);
    if (slot < 0 || slot >= this.info.maxSlots) throw new Error(`there is no slot ${slot}`);
    if (params.temperature === -1) throw new Error('temperature must not be negative');
    this.slots.set(slot, { params, prompt: prompt.slice(), history: [...prompt, ...output] });
  }

  closeSlot(slot: number): void {
    if (this.running) throw new Error('a slot is closed while a step runs');
    if (!this.slots.delete(slot)) throw new Error(`slot ${slot} is not open`);
  }

  holdBack(): void {
    this.held = true;
  }

  async step(record: StepRecord): Promise<StepOutput[]> {
    if (this.running) throw new Error('two steps at once');
    this.running = true;
    this.held = false;
    // The record's arrays are views: what a native runner would copy at the call is copied here.
    const entries = record.entries.map((entry) => ({
      ...entry,
      tokens: entry.tokens.slice(),
      blockTable: entry.blockTable.slice(),
    }));
    try {
      await this.options.beforeStep?.(this.steps, record);
      this.steps++;
      const size = entries.reduce((sum, entry) => sum + entry.tokens.length, 0);
      if (size > this.info.maxBatchedTokens) throw new Error(`a step of ${size} tokens is over the budget`);
      this.largestStep = Math.max(this.largestStep, size);
      this.computedTokens += size;
      for (const { from, to } of record.copies) {
        if (from === to) throw new Error('a block is copied onto itself');
        this.copies++;
        this.arena.copyWithin(to * BLOCK_SIZE, from * BLOCK_SIZE, (from + 1) * BLOCK_SIZE);
        this.chain.copyWithin(to * BLOCK_SIZE, from * BLOCK_SIZE, (from + 1) * BLOCK_SIZE);
      }
      this.verifyWrites(entries);
      for (const { slot, position, tokens } of entries) {
        if (this.begun.get(slot) === `${position} ${tokens}`) this.foreseen++;
      }
      this.begun.clear();
      const outputs = entries.map((entry) => this.compute(entry));
      if (!this.held) entries.forEach((entry, i) => void this.begin(entry, outputs[i]!.token));
      return outputs;
    } finally {
      this.running = false;
    }
  }

  async close(): Promise<void> {
    if (this.running) throw new Error('closed while a step runs');
    this.closed = true;
  }

  /** No place that one entry writes may be read or written by another. */
  private verifyWrites(entries: StepRecord['entries']): void {
    const written = new Map<number, number>();
    const slots = new Set<number>();
    for (const { slot, position, tokens, blockTable, next } of entries) {
      if (slots.has(slot)) throw new Error(`slot ${slot} has two entries`);
      slots.add(slot);
      if (tokens.length === 0) throw new Error('an entry without tokens');
      const room = position + tokens.length + (next ? 1 : 0);
      if (next && !this.options.lookAhead) throw new Error('nobody asked what comes next');
      if (blockTable.length !== Math.ceil(room / BLOCK_SIZE)) {
        throw new Error('the block table does not fit the positions');
      }
      for (let p = position; p < position + tokens.length; p++) {
        const block = blockTable[Math.floor(p / BLOCK_SIZE)]!;
        if (written.has(block) && written.get(block) !== slot)
          throw new Error(`two slots write block ${block}`);
        written.set(block, slot);
      }
    }
    for (const { slot, blockTable } of entries) {
      for (const block of blockTable) {
        if (written.has(block) && written.get(block) !== slot)
          throw new Error(`block ${block} is read and written`);
      }
    }
  }

  /** Writes the keys and values of a token just sampled, whether or not it will be asked for. */
  private begin({ slot, position, tokens, blockTable, next }: StepRecord['entries'][number], token: number) {
    if (!next || token < 0) return;
    const p = position + tokens.length;
    const at = blockTable[Math.floor(p / BLOCK_SIZE)]! * BLOCK_SIZE + (p % BLOCK_SIZE);
    this.arena[at] = token;
    this.chain[at] = historyHash(this.slots.get(slot)!.history, p + 1);
    this.begun.set(slot, `${p} ${token}`);
    this.ahead++;
  }

  private compute({ slot, tokens, position, blockTable, sample }: StepRecord['entries'][number]): StepOutput {
    const state = this.slots.get(slot);
    if (state === undefined) throw new Error(`slot ${slot} is not open`);
    const place = (p: number) => blockTable[Math.floor(p / BLOCK_SIZE)]! * BLOCK_SIZE + (p % BLOCK_SIZE);
    for (let p = 0; p < position; p++) {
      if (
        this.arena[place(p)] !== state.history[p] ||
        this.chain[place(p)] !== historyHash(state.history, p + 1)
      ) {
        throw new Error(`position ${p} of slot ${slot} does not hold what was computed for it`);
      }
    }
    tokens.forEach((token, i) => {
      const p = position + i;
      if (token !== state.history[p]) throw new Error(`slot ${slot} is given a wrong token at ${p}`);
      this.arena[place(p)] = token;
      this.chain[place(p)] = mix(p === 0 ? 0 : this.chain[place(p - 1)]!, token);
    });
    const end = position + tokens.length;
    const last = this.chain[place(end - 1)]!;
    const { params, prompt } = state;
    let promptRows: StepOutput['prompt'] = null;
    if (params.promptLogprobs >= 0) {
      const first = Math.max(position, (params.promptLogprobsFrom ?? 1) - 1);
      const rows = Math.max(0, Math.min(end, prompt.length - 1) - first);
      promptRows = {
        logprobs: Float32Array.from({ length: rows }, (_, i) => promptLogprob(prompt, first + i)),
        topIds: new Int32Array(rows * params.promptLogprobs),
        topLogprobs: new Float32Array(rows * params.promptLogprobs),
        k: params.promptLogprobs,
      };
    }
    if (tokens.at(-1) === this.options.poison) {
      return {
        slot,
        token: -1,
        logprob: 0,
        top: null,
        prompt: null,
        pooled: null,
        error: this.options.poisonError ?? 'non_finite_logits',
      };
    }
    let token = -1;
    if (sample) {
      if (end !== state.history.length) throw new Error('sampled before the end of the history');
      token = nextToken(last, params.seed, state.history.length - prompt.length);
      state.history.push(token);
    }
    return { slot, token, logprob: -1, top: null, prompt: promptRows, pooled: null, error: null };
  }
}

/** What the fake model answers to a request that runs alone: computed without any scheduler. */
export function expectedOutput(request: GenerateRequest, maxModelLen = 512): number[] {
  const history = [...request.prompt];
  const output: number[] = [];
  while (output.length < request.maxTokens && history.length < maxModelLen) {
    const token = nextToken(historyHash(history, history.length), request.sampling.seed, output.length);
    history.push(token);
    output.push(token);
    if (request.stopTokenIds.includes(token)) break;
  }
  return output;
}

export function promptLogprob(prompt: Int32Array, position: number): number {
  return -((historyHash(prompt, position + 1) ^ prompt[position + 1]!) >>> 8);
}

let nextId = 0;
export function request(fields: Partial<GenerateRequest> & { prompt: Int32Array }): GenerateRequest {
  return { id: `r${nextId++}`, sampling: GREEDY, maxTokens: 8, stopTokenIds: [], ...fields };
}

export function prompt(length: number, random: () => number): Int32Array {
  return Int32Array.from({ length }, () => Math.floor(random() * VOCAB));
}

function mix(hash: number, token: number): number {
  let h = Math.imul(hash ^ (token + 0x9e37), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) + 1) | 0;
}

function historyHash(history: ArrayLike<number>, length: number): number {
  let hash = 0;
  for (let i = 0; i < length; i++) hash = mix(hash, history[i]!);
  return hash;
}

function nextToken(hash: number, seed: bigint, index: number): number {
  return (mix(hash ^ Number(seed & 0xffffn), index) >>> 0) % VOCAB;
}
