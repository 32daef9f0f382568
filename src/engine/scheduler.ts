import { FiligreeError } from '../errors.js';
import type { BlockManager } from './block-manager.js';
import type {
  BlockCopy,
  PromptLogprobs,
  RowError,
  StepEntry,
  StepOutput,
  StepRecord,
  TopLogprobs,
} from './model-runner.js';
import { BLOCK_SIZE } from './model-runner.js';
import type { Sequence } from './sequence.js';

/**
 * Decides what each step computes: `schedule()` returns a plain record, somebody runs it, `update()` takes the
 * results. No I/O and no clock inside, so that every decision can be replayed.
 *
 * Continuous batching under one token budget: sequences that decode come first, one token each, then prefill chunks
 * in order of rank, then newcomers. A newcomer gets the blocks of its whole prompt at once, so only decoding can run
 * out of blocks; then the sequence of the last rank is preempted and later computes its tokens again. It comes back
 * only after some other sequence has left: between two preemptions of one sequence something finishes, and no loop of
 * resuming and preempting can arise.
 */

export interface SchedulerConfig {
  /** Sequences that run at once, at most the runner's slots. */
  maxNumSeqs: number;
  /** Tokens of one step. */
  maxNumBatchedTokens: number;
  /** The runner begins steps ahead: say which entries go on, and give them room for that. */
  lookAhead?: boolean;
}

export interface Schedule {
  record: StepRecord;
  /** Sequences by entry of the record. */
  sequences: Sequence[];
  /** Tokens of the record that are not one new token of a sequence that decodes. */
  prefillTokens: number;
  /** Slots to close, then sequences whose slots to open, before the record runs. */
  closed: number[];
  opened: Sequence[];
}

/** What a step meant for one sequence. */
export interface SequenceUpdate {
  sequence: Sequence;
  prompt: PromptLogprobs | null;
  pooled: Float32Array | null;
  /** Null when the step sampled nothing. */
  token: { id: number; logprob: number; top: TopLogprobs | null } | null;
  /** Tokens behind it that its constraint left no choice about. */
  forced: Int32Array;
}

export interface SchedulerCounters {
  preemptions: number;
  /** Prompt tokens looked up in the prefix cache, and found there. */
  prefixQueries: number;
  prefixHits: number;
}

const NO_TOKENS = new Int32Array(0);

interface Planned {
  tokens: number;
  copy: BlockCopy | null;
}

const ROW_ERRORS: Record<RowError, string> = {
  non_finite_logits: 'The model produced values that are not finite for this request.',
  no_token_allowed:
    'No token may follow: allowed_token_ids, bad_words, min_tokens, logit_bias and the constraint together rule out the whole vocabulary.',
  constraint_failed: 'The constraint is too ambiguous: its text so far can be read in too many ways.',
};

/** Newcomers that may be passed over in one step because a running sequence computes their prefix. */
const MAX_PASSED_OVER = 64;

export class Scheduler {
  readonly waiting: Sequence[] = [];
  /** By rank. */
  readonly running: Sequence[] = [];
  readonly counters: SchedulerCounters = { preemptions: 0, prefixQueries: 0, prefixHits: 0 };
  waitingTokens = 0;

  private readonly freeSlots: number[];
  private closed: number[] = [];
  private inFlight: Schedule | null = null;
  /** Sequences that gave their blocks back for good, or for as long as their consumer sleeps. */
  private departures = 0;

  constructor(
    private readonly config: SchedulerConfig,
    readonly blocks: BlockManager,
  ) {
    this.freeSlots = Array.from({ length: config.maxNumSeqs }, (_, i) => config.maxNumSeqs - 1 - i);
  }

  get idle(): boolean {
    return this.waiting.length === 0 && this.running.length === 0;
  }

  /** Tokens that could ever be in the cache at once. */
  get capacityTokens(): number {
    return this.blocks.numBlocks * BLOCK_SIZE;
  }

  /** Queues a sequence. Throws where it could never run to its end, whatever else leaves. */
  add(sequence: Sequence): void {
    const { maxTokens } = sequence.request;
    // The last token sampled is never fed back, so its keys and values need no room.
    const most = Math.min(sequence.promptLength + Math.max(0, maxTokens - 1), sequence.maxModelLen);
    if (most > this.capacityTokens) {
      throw new FiligreeError(
        'context_length_exceeded',
        `This request may need ${most} tokens of KV cache, but the server has memory for ${this.capacityTokens}. ` +
          'Shorten the prompt or lower max_tokens.',
      );
    }
    this.enqueue(sequence);
  }

  /** Lets go of a sequence: at once where it waits, before the next step where it runs. */
  abort(sequence: Sequence): void {
    sequence.aborted = true;
    if (sequence.state === 'waiting') {
      this.dequeue(sequence);
      sequence.state = 'finished';
    } else if (sequence.state === 'running' && this.inFlight === null) {
      this.depart(sequence);
    }
  }

  /** Takes a sequence out of the step just scheduled, before it runs: the runner refused its parameters. */
  withdraw(sequence: Sequence, error: Error): void {
    const schedule = this.inFlight;
    const at = schedule?.sequences.indexOf(sequence) ?? -1;
    if (schedule === null || at < 0) throw new Error('withdraw: the sequence is not part of the step');
    const to = sequence.table.blocks[sequence.table.length - 1];
    schedule.sequences.splice(at, 1);
    schedule.record.entries.splice(at, 1);
    schedule.record.copies = schedule.record.copies.filter((copy) => copy.to !== to);
    this.fail(sequence, error);
    // It was never opened, so there is nothing to close.
    this.closed.pop();
    if (schedule.sequences.length === 0) this.inFlight = null;
  }

  /** The next step, or null when nothing can be computed now. */
  schedule(): Schedule | null {
    if (this.inFlight !== null) throw new Error('schedule: the previous step is still in flight');
    for (const sequence of [...this.running]) if (sequence.aborted) this.depart(sequence);
    const plan = new Map<Sequence, Planned>();
    const shortage = this.planRunning(plan);
    const opened = shortage ? [] : this.admit(plan, this.config.maxNumBatchedTokens - total(plan));
    const closed = this.takeClosed();
    if (plan.size === 0) {
      // Slots of sequences preempted here still have to be closed.
      this.closed = closed;
      return null;
    }
    const record: StepRecord = { entries: [], copies: [] };
    const schedule: Schedule = { record, sequences: [], prefillTokens: 0, closed, opened };
    for (const [sequence, planned] of plan) {
      if (sequence.prefilling) schedule.prefillTokens += planned.tokens;
      schedule.record.entries.push(entryOf(sequence, planned.tokens));
      if (planned.copy !== null) schedule.record.copies.push(planned.copy);
      schedule.sequences.push(sequence);
    }
    if (this.config.lookAhead) this.announce(schedule, plan);
    this.inFlight = schedule;
    return schedule;
  }

  /** Results of the step in flight, in the order of its entries. */
  update(outputs: StepOutput[]): SequenceUpdate[] {
    const { record, sequences } = this.land();
    if (outputs.length !== sequences.length) {
      throw new Error(`a step of ${sequences.length} entries returned ${outputs.length} outputs`);
    }
    const updates: SequenceUpdate[] = [];
    for (let i = 0; i < sequences.length; i++) {
      const sequence = sequences[i] as Sequence;
      const entry = record.entries[i] as StepEntry;
      const output = outputs[i] as StepOutput;
      if (output.slot !== entry.slot)
        throw new Error(`output ${i} is for slot ${output.slot}, not ${entry.slot}`);
      if (sequence.aborted) {
        this.depart(sequence);
        continue;
      }
      if (output.error !== null) {
        if (output.error === 'non_finite_logits') this.blocks.distrust(sequence.table);
        this.fail(sequence, new FiligreeError(output.error, ROW_ERRORS[output.error]));
        updates.push({ sequence, prompt: null, pooled: null, token: null, forced: NO_TOKENS });
        continue;
      }
      const before = sequence.length;
      sequence.advance(output, entry.tokens.length, entry.sample);
      this.blocks.commit(sequence.table, sequence.tokens, sequence.computed);
      const prompt = sequence.takePromptLogprobs();
      const token = entry.sample ? { id: output.token, logprob: output.logprob, top: output.top } : null;
      if (sequence.finishReason !== null) this.depart(sequence);
      const { pooled } = output;
      if (prompt !== null || pooled !== null || token !== null || sequence.finishReason !== null) {
        const forced = token === null ? NO_TOKENS : sequence.tokens.slice(before + 1, sequence.length);
        updates.push({ sequence, prompt, pooled, token, forced });
      }
    }
    return updates;
  }

  /** The step in flight failed as a whole: so do its sequences, and nothing it wrote is trusted. */
  failStep(error: Error): Sequence[] {
    const { sequences } = this.land();
    const failed: Sequence[] = [];
    for (const sequence of sequences) {
      if (sequence.aborted) {
        this.depart(sequence);
        continue;
      }
      this.fail(sequence, error);
      failed.push(sequence);
    }
    return failed;
  }

  /** Slots given back since the last call; the runner must close them before they are opened again. */
  takeClosed(): number[] {
    const closed = this.closed;
    this.closed = [];
    return closed;
  }

  /** Verifies the accounting of blocks, slots and queues; throws what is wrong. */
  check(): void {
    this.blocks.check(this.running.map((sequence) => sequence.table));
    const slots = new Set([...this.freeSlots, ...this.running.map((sequence) => sequence.slot)]);
    if (slots.size !== this.config.maxNumSeqs || slots.size !== this.freeSlots.length + this.running.length) {
      throw new Error('slot accounting: a slot is lost or given twice');
    }
    for (const sequence of this.waiting) {
      if (sequence.state !== 'waiting' || sequence.table.length > 0 || sequence.slot !== -1) {
        throw new Error('a waiting sequence holds blocks or a slot');
      }
    }
    if (this.waitingTokens !== this.waiting.reduce((sum, sequence) => sum + sequence.promptLength, 0)) {
      throw new Error('the count of waiting prompt tokens is wrong');
    }
  }

  /** Plans every running sequence; true when it had to preempt one for want of blocks. */
  private planRunning(plan: Map<Sequence, Planned>): boolean {
    let shortage = false;
    for (const prefill of [false, true]) {
      for (const sequence of [...this.running]) {
        const budget = this.config.maxNumBatchedTokens - total(plan);
        if (budget === 0) break;
        if (sequence.paused || sequence.state !== 'running' || sequence.remaining > 1 !== prefill) continue;
        if (!this.makeRoom(sequence, plan)) {
          shortage = true;
          continue;
        }
        plan.set(sequence, { tokens: Math.min(sequence.remaining, budget), copy: null });
      }
    }
    return shortage;
  }

  /** Blocks for all tokens of a running sequence; preempts others for them. False when it was preempted itself. */
  private makeRoom(sequence: Sequence, plan: Map<Sequence, Planned>): boolean {
    while (!this.blocks.grow(sequence.table, sequence.length)) {
      const victim = this.running.findLast((other) => other.paused) ?? (this.running.at(-1) as Sequence);
      if (victim === sequence && this.running.length === 1) {
        throw new Error('a sequence alone does not fit into the cache, yet was admitted');
      }
      plan.delete(victim);
      this.preempt(victim);
      if (victim === sequence) return false;
    }
    return true;
  }

  /**
   * Marks the entries that the next step repeats with the token they are about to get: where it can be foreseen that it
   * will hold nothing else. Each has its block one token early; none is preempted for that.
   */
  private announce({ record, sequences }: Schedule, plan: Map<Sequence, Planned>): void {
    const goOn = sequences.filter((sequence) => !sequence.ending);
    if (this.waiting.length > 0 && (this.freeSlots.length > 0 || goOn.length < sequences.length)) return;
    if (this.blocks.free <= this.running.length) return;
    if (this.running.some((sequence) => !sequence.paused && !plan.has(sequence))) return;
    const { entries } = record;
    if (entries.some((entry, i) => !entry.sample || (sequences[i] as Sequence).request.sampling.constraint))
      return;
    entries.forEach((entry, i) => {
      const sequence = sequences[i] as Sequence;
      if (sequence.ending) return;
      this.blocks.grow(sequence.table, sequence.length + 1);
      entry.blockTable = sequence.table.view(sequence.length + 1);
      entry.next = true;
    });
  }

  private admit(plan: Map<Sequence, Planned>, tokenBudget: number): Sequence[] {
    const opened: Sequence[] = [];
    let budget = tokenBudget;
    let passedOver = 0;
    for (let i = 0; i < this.waiting.length && budget > 0 && passedOver < MAX_PASSED_OVER; ) {
      const sequence = this.waiting[i] as Sequence;
      if (sequence.paused) {
        i++;
        continue;
      }
      if (this.awaitsPrefix(sequence)) {
        passedOver++;
        i++;
        continue;
      }
      const admission = this.takeIn(sequence);
      if (admission === null) {
        // One whose consumer sleeps must not keep those out who could go on.
        const sleeper = this.running.findLast((other) => other.paused);
        if (sleeper === undefined) break;
        this.preempt(sleeper);
        this.departures++;
        i = this.waiting.indexOf(sequence);
        continue;
      }
      this.waiting.splice(i, 1);
      this.waitingTokens -= sequence.promptLength;
      sequence.state = 'running';
      sequence.slot = this.freeSlots.pop() as number;
      sequence.computed = admission.cachedTokens;
      insertByRank(this.running, sequence);
      if (sequence.cachedTokens < 0) {
        sequence.cachedTokens = admission.cachedTokens;
        this.counters.prefixQueries += sequence.cacheable;
        this.counters.prefixHits += admission.cachedTokens;
      }
      const tokens = Math.min(sequence.remaining, budget);
      budget -= tokens;
      plan.set(sequence, { tokens, copy: admission.copy });
      opened.push(sequence);
    }
    return opened;
  }

  /** Blocks for a newcomer; null when it must wait for blocks, a slot, or the departure of another. */
  private takeIn(sequence: Sequence) {
    if (this.freeSlots.length === 0) return null;
    const active = this.running.filter((other) => !other.paused).length;
    if (active > 0 && sequence.preemptedAt === this.departures) return null;
    // Leave every sequence that decodes a block to grow into, or the newcomer would soon be preempted.
    return this.blocks.admit(sequence.table, sequence.tokens, sequence.length, sequence.cacheable, active);
  }

  /**
   * Whether a running sequence is about to compute blocks that this one shares beyond what is cached: then waiting
   * for them is cheaper than computing them twice (n > 1, or a common system prompt sent at once).
   */
  private awaitsPrefix(sequence: Sequence): boolean {
    const { cacheable } = sequence;
    if (cacheable < BLOCK_SIZE || !this.blocks.prefixCache) return false;
    let cached = -1;
    for (const other of this.running) {
      if (other.paused || other.aborted || !other.prefilling) continue;
      if (other.table.salt !== sequence.table.salt) continue;
      const most = Math.min(other.length, cacheable);
      let shared = 0;
      while (shared < most && other.tokens[shared] === sequence.tokens[shared]) shared++;
      if (shared < BLOCK_SIZE) continue;
      if (cached < 0) cached = this.blocks.countCached(sequence.tokens, cacheable, sequence.table.salt);
      if (Math.floor(shared / BLOCK_SIZE) > cached) return true;
    }
    return false;
  }

  private preempt(sequence: Sequence): void {
    this.leave(sequence);
    sequence.reset(this.departures);
    this.counters.preemptions++;
    this.enqueue(sequence);
  }

  private fail(sequence: Sequence, error: Error): void {
    sequence.finishReason = 'error';
    sequence.error = error;
    this.depart(sequence);
  }

  private depart(sequence: Sequence): void {
    this.leave(sequence);
    sequence.state = 'finished';
    this.departures++;
  }

  private leave(sequence: Sequence): void {
    this.running.splice(this.running.indexOf(sequence), 1);
    this.blocks.release(sequence.table);
    this.closed.push(sequence.slot);
    this.freeSlots.push(sequence.slot);
  }

  private enqueue(sequence: Sequence): void {
    insertByRank(this.waiting, sequence);
    this.waitingTokens += sequence.promptLength;
  }

  private dequeue(sequence: Sequence): void {
    this.waiting.splice(this.waiting.indexOf(sequence), 1);
    this.waitingTokens -= sequence.promptLength;
  }

  private land(): Schedule {
    const schedule = this.inFlight;
    if (schedule === null) throw new Error('no step is in flight');
    this.inFlight = null;
    return schedule;
  }
}

function entryOf(sequence: Sequence, tokens: number): StepEntry {
  const position = sequence.computed;
  const end = position + tokens;
  return {
    slot: sequence.slot,
    tokens: sequence.tokens.subarray(position, end),
    position,
    blockTable: sequence.table.view(end),
    sample: end === sequence.length && sequence.request.maxTokens > 0,
  };
}

function insertByRank(list: Sequence[], sequence: Sequence): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sequence.compare(list[middle] as Sequence) < 0) high = middle;
    else low = middle + 1;
  }
  list.splice(low, 0, sequence);
}

function total(plan: Map<Sequence, Planned>): number {
  let tokens = 0;
  for (const planned of plan.values()) tokens += planned.tokens;
  return tokens;
}
