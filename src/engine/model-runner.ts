/**
 * The one door between the scheduler and whatever computes a step. The engine knows only this file; the native addon
 * and the test fakes implement it. Everything in a record is plain data, so that a step is one crossing.
 */

/** A constraint compiled for a model's vocabulary: opaque to all but whoever compiled it, and shared by requests. */
export type Grammar = object & { readonly grammar?: never };

/** What a request's output must satisfy. */
export interface Constraint {
  grammar: Grammar;
  /** The output goes on behind the prompt's text: a leading space is part of it. */
  continuation: boolean;
}

export interface GrammarCompiler {
  /**
   * @param program as grammar/program.ts writes it
   * @throws Error that says why no automaton can be made of it
   */
  compile(program: Int32Array): Promise<Grammar>;
}

/** A vocabulary as a constraint sees it: every token's bytes. */
export interface TokenTable {
  bytes: Uint8Array;
  /** [vocabSize + 1]: token i is bytes[offsets[i] .. offsets[i + 1]). Empty: never allowed. */
  offsets: Int32Array;
  /** Control tokens: allowed only where a constraint names them. */
  control: Int32Array;
  /** Ends of the output: allowed only where the constraint is satisfied. */
  ends: Int32Array;
  /** The decoder drops one space at the very start of a text. */
  stripsLeadingSpace: boolean;
}

/** How tokens of one request are drawn. Order of operations: constraint, bias and allow-list, penalties, temperature, min-p, top-k, top-p. */
export interface SamplingParams {
  /** 0 is greedy. */
  temperature: number;
  /** 0 turns it off. */
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  logitBias: [id: number, value: number][];
  /** Key of the request's own counter-based random stream. */
  seed: bigint;
  /** -1: none; k >= 0: the sampled token's log-probability and the k most likely. */
  logprobs: number;
  /** -1: none; k >= 0: log-probabilities of the prompt's tokens, with the k most likely at each position. */
  promptLogprobs: number;
  /**
   * Index of the first prompt token whose log-probability is wanted, at least 1 (the default): what stands before it
   * may come from the prefix cache and costs no logits.
   */
  promptLogprobsFrom?: number;
  /** Whether the prompt's final hidden states are wanted: their mean, or that of the last token. */
  pooling: 'none' | 'mean' | 'last';
  /** Until so many tokens are sampled, `suppressedUntilMin` cannot be. */
  minTokens: number;
  suppressedUntilMin: number[];
  allowedTokenIds: number[] | null;
  /** Token sequences that must not appear; the last token of one is banned when the others stand before it. */
  badWords: number[][];
  /** Left out or null: free text. */
  constraint?: Constraint | null;
}

/** Plain greedy sampling: the neutral value of every parameter. */
export const GREEDY: Readonly<SamplingParams> = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: [],
  seed: 0n,
  logprobs: -1,
  promptLogprobs: -1,
  pooling: 'none',
  minTokens: 0,
  suppressedUntilMin: [],
  allowedTokenIds: null,
  badWords: [],
});

/** What one sequence does in a step: a prefill chunk, or one decode token. */
export interface StepEntry {
  slot: number;
  /** Ids of this chunk, at least one. */
  tokens: Int32Array;
  /** Position of `tokens[0]` in the sequence. */
  position: number;
  /** Physical blocks of positions 0 .. position + tokens.length - 1, in order. */
  blockTable: Int32Array;
  /** Whether the last token's logits are sampled. */
  sample: boolean;
  /** The sampled token is likely to be this slot's entry of the next step, and `blockTable` has room for it. */
  next?: boolean;
}

export interface BlockCopy {
  from: number;
  to: number;
}

export interface StepRecord {
  entries: StepEntry[];
  /** Whole-block copies (copy-on-write), done before anything else of the step. */
  copies: BlockCopy[];
}

/** The `k` most likely tokens of one distribution, most likely first. */
export interface TopLogprobs {
  ids: Int32Array;
  logprobs: Float32Array;
}

/**
 * Log-probabilities of the prompt inside one chunk: row i belongs to the i-th position of the chunk from
 * `promptLogprobsFrom - 1` on, for as long as the next position is still in the prompt. `logprobs[i]` is that of the
 * token after this position given all before it.
 */
export interface PromptLogprobs {
  /** [rows] */
  logprobs: Float32Array;
  /** [rows][k] */
  topIds: Int32Array;
  /** [rows][k] */
  topLogprobs: Float32Array;
  k: number;
}

/** `no_token_allowed`: what the request forbids leaves nothing; `constraint_failed`: its text has too many readings. */
export type RowError = 'non_finite_logits' | 'no_token_allowed' | 'constraint_failed';

export interface StepOutput {
  slot: number;
  /** -1 when the entry was not sampled. */
  token: number;
  logprob: number;
  top: TopLogprobs | null;
  prompt: PromptLogprobs | null;
  /** [hiddenSize], in the step that ends a pooled prompt. */
  pooled: Float32Array | null;
  /** Tokens that must follow the sampled one under its constraint: part of the output, without a step each. */
  forced?: Int32Array;
  /** Set when this row alone failed. */
  error: RowError | null;
}

/** Tokens in one KV block; the kernels are compiled for it. */
export const BLOCK_SIZE = 16;

export interface RunnerInfo {
  vocabSize: number;
  /** Numbers of a final hidden state. */
  hiddenSize: number;
  maxModelLen: number;
  blockSize: 16;
  numBlocks: number;
  maxSlots: number;
  maxBatchedTokens: number;
  threads: number;
  /** Where the layers are computed: 'cpu', or the GPU's name. */
  device: string;
  isa: string;
  weightBytes: number;
  /** Weight bytes that one decode step reads: all but the rows of the embedding it does not look up. */
  decodeWeightBytes: number;
  /** What the same weights take as dense f32. */
  denseF32Bytes: number;
  /** Fraction of zeros over all matrices. */
  sparsity: number;
  /** Bytes by weight format. */
  formats: Record<string, number>;
  kvType: string;
  kvBytes: number;
  /** Keys and values of one token over all layers. */
  kvBytesPerToken: number;
  loadMs: number;
  fromCache: boolean;
  /** Steps are begun before they are asked for, where entries say what comes `next`. */
  lookAhead?: boolean;
  /** Names of the LoRA adapters that requests may choose; absent: none. */
  adapters?: readonly string[];
}

export interface ModelRunner {
  readonly info: RunnerInfo;
  /** Milliseconds the last step took where it was computed, without the way there and back; absent where nobody measures. */
  readonly computeMs?: number;
  /**
   * Binds a slot to a request. `output` holds the tokens it generated before a preemption, so that penalties, the
   * random counter and `minTokens` go on where they were. The slot's sampler counts its own sampled tokens after that.
   * `adapter` is one of `info.adapters`; left out: the base alone.
   */
  openSlot(
    slot: number,
    params: SamplingParams,
    prompt: Int32Array,
    output: Int32Array,
    adapter?: string,
  ): void;
  closeSlot(slot: number): void;
  /** The step after the one in flight will have other entries than announced as `next`. */
  holdBack?(): void;
  /** One step at a time. Outputs stand in the order of `record.entries`. A rejection fails the whole step. */
  step(record: StepRecord): Promise<StepOutput[]>;
  /** After the step in flight, if any, has ended. */
  close(): Promise<void>;
}
