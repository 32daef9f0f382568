import { BlockTable } from './block-manager.js';
import type { PromptLogprobs, SamplingParams, StepOutput } from './model-runner.js';
import type { FinishReason, GenerateRequest } from './request.js';

/** Where a sequence stands: `waiting` holds no blocks and no slot, `running` holds both, `finished` neither. */
export type SequenceState = 'waiting' | 'running' | 'finished';

/** One request inside the scheduler: its tokens, how many of them are computed, its slot and its blocks. */
export class Sequence {
  state: SequenceState = 'waiting';
  slot = -1;
  /** Positions whose keys and values are in the cache. */
  computed = 0;
  readonly table: BlockTable;
  readonly priority: number;
  readonly stopTokenIds: ReadonlySet<number>;

  /** The consumer is behind: compute nothing for it until it has caught up. */
  paused = false;
  /** Its owner has left; the scheduler lets it go before the next step. */
  aborted = false;

  preemptions = 0;
  /** The scheduler's count of departures when this sequence was last preempted, -1 if it never was. */
  preemptedAt = -1;
  /** Prompt tokens found in the prefix cache at the first admission, -1 before it. */
  cachedTokens = -1;

  finishReason: FinishReason | null = null;
  stopTokenId: number | null = null;
  error: Error | null = null;

  private ids: Int32Array;
  /** All tokens, prompt and output. */
  length: number;
  private promptRows: PromptLogprobs[] = [];
  private promptReported: boolean;
  private readonly pooled: boolean;

  constructor(
    readonly request: GenerateRequest,
    /** Order of submission: decides among equal priorities. */
    readonly order: number,
    readonly maxModelLen: number,
  ) {
    this.priority = request.priority ?? 0;
    this.stopTokenIds = new Set(request.stopTokenIds);
    const { adapter, cacheSalt: salt = '' } = request;
    this.table = new BlockTable(cacheRoot(request), { salt, adapter });
    this.length = request.prompt.length;
    this.ids = new Int32Array(this.length + 64);
    this.ids.set(request.prompt);
    this.promptReported = request.sampling.promptLogprobs < 0;
    this.pooled = request.sampling.pooling !== 'none';
  }

  get promptLength(): number {
    return this.request.prompt.length;
  }

  get outputLength(): number {
    return this.length - this.promptLength;
  }

  /** Backing store: the first `length` entries count. */
  get tokens(): Int32Array {
    return this.ids;
  }

  get output(): Int32Array {
    return this.ids.slice(this.promptLength, this.length);
  }

  /** Parameters for (re)opening its slot: log-probabilities of the prompt are not asked for twice. */
  get sampling(): SamplingParams {
    const { sampling } = this.request;
    return this.promptReported && sampling.promptLogprobs >= 0
      ? { ...sampling, promptLogprobs: -1 }
      : sampling;
  }

  /** Tokens still to be computed; 1 for a sequence that decodes. */
  get remaining(): number {
    return this.length - this.computed;
  }

  get prefilling(): boolean {
    return this.remaining > 1 || this.computed < this.promptLength;
  }

  /**
   * Leading tokens that the prefix cache may serve. Log-probabilities of the prompt need the positions that predict
   * them computed, so until they are reported the cache ends before the first of these; pooling needs all.
   */
  get cacheable(): number {
    if (this.pooled) return 0;
    return this.promptReported ? this.length : (this.request.sampling.promptLogprobsFrom ?? 1) - 1;
  }

  /** Earlier in rank is served first and preempted last. */
  compare(other: Sequence): number {
    return this.priority - other.priority || this.order - other.order;
  }

  /** No token more may be appended. */
  private get full(): boolean {
    return this.outputLength >= this.request.maxTokens || this.length >= this.maxModelLen;
  }

  /** The next token is its last, whatever it is. */
  get ending(): boolean {
    return this.outputLength + 1 >= this.request.maxTokens || this.length + 1 >= this.maxModelLen;
  }

  append(token: number): void {
    if (this.length === this.ids.length) {
      const grown = new Int32Array(Math.min(this.length * 2, this.maxModelLen + 1));
      grown.set(this.ids);
      this.ids = grown;
    }
    this.ids[this.length++] = token;
  }

  /** Takes over what a step computed; decides whether the sequence is finished. */
  advance(output: StepOutput, tokens: number, sampled: boolean): void {
    if (output.prompt !== null && !this.promptReported) this.promptRows.push(output.prompt);
    this.computed += tokens;
    if (sampled) {
      const { minTokens, constraint } = this.request.sampling;
      for (const token of [output.token, ...(output.forced ?? [])]) {
        this.append(token);
        // A constraint allows an early end only where nothing else can follow.
        if (this.stopTokenIds.has(token) && (this.outputLength >= minTokens || constraint)) {
          this.finishReason = 'stop';
          this.stopTokenId = token;
          return;
        }
        if (this.full) break;
      }
    }
    if (this.full && this.computed >= this.promptLength) this.finishReason = 'length';
  }

  /** The prompt's log-probabilities, once, as soon as the whole prompt is computed. */
  takePromptLogprobs(): PromptLogprobs | null {
    if (this.promptReported || this.computed < this.promptLength) return null;
    this.promptReported = true;
    const rows = this.promptRows;
    this.promptRows = [];
    return joinRows(rows, this.request.sampling.promptLogprobs);
  }

  /** Back to the queue: everything will be computed again. */
  reset(departures: number): void {
    this.state = 'waiting';
    this.slot = -1;
    this.computed = 0;
    this.promptRows = [];
    this.preemptions++;
    this.preemptedAt = departures;
  }
}

/** Keys and values differ by adapter, and callers may ask for a cache of their own: no two of these share a root. */
function cacheRoot({ adapter, cacheSalt = '' }: GenerateRequest): string {
  if (adapter !== undefined) return `adapter ${JSON.stringify([adapter, cacheSalt])}`;
  return cacheSalt === '' ? '' : `salt ${cacheSalt}`;
}

function joinRows(rows: PromptLogprobs[], k: number): PromptLogprobs {
  const count = rows.reduce((sum, part) => sum + part.logprobs.length, 0);
  const joined = {
    logprobs: new Float32Array(count),
    topIds: new Int32Array(count * k),
    topLogprobs: new Float32Array(count * k),
    k,
  };
  let at = 0;
  for (const part of rows) {
    joined.logprobs.set(part.logprobs, at);
    joined.topIds.set(part.topIds, at * k);
    joined.topLogprobs.set(part.topLogprobs, at * k);
    at += part.logprobs.length;
  }
  return joined;
}
