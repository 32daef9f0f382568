import { EventEmitter } from 'node:events';
import { FiligreeError } from '../errors.js';
import { queueFull, validateRequest } from './admission.js';
import { BlockManager } from './block-manager.js';
import { type CacheEvent, CacheJournal } from './cache-journal.js';
import { Generation } from './generation.js';
import type { ModelRunner, RunnerInfo, StepOutput } from './model-runner.js';
import type { FinishEvent, GenerateRequest, RequestTimings } from './request.js';
import { type Schedule, Scheduler, type SequenceUpdate } from './scheduler.js';
import { Sequence } from './sequence.js';
import {
  type EngineStats,
  type FinishedInfo,
  type RequestClock,
  type StepInfo,
  Telemetry,
} from './telemetry.js';

export { Generation } from './generation.js';
export type * from './request.js';
export type { EngineStats, FinishedInfo, StepInfo } from './telemetry.js';

export interface EngineOptions {
  /** Sequences that run at once; at most the runner's slots. */
  maxNumSeqs: number;
  /** Tokens of one step; at most what the runner planned for. */
  maxNumBatchedTokens: number;
  prefixCache: boolean;
  /** Requests that may wait beyond those that can run. */
  queueLimit: number;
  /** Prompt tokens that may wait. */
  queueTokenLimit: number;
  /** A step that takes longer makes the engine unhealthy. Default: no limit. */
  watchdogMs?: number;
  /** Report what the prefix cache takes in and drops, as `cache` events; names of blocks are chained from this seed. */
  cacheEventSeed?: string | undefined;
}

interface EngineEvents {
  step: [StepInfo];
  finished: [FinishedInfo];
  /** What the prefix cache took in and dropped since the last such event, in order; at most one a step. */
  cache: [CacheEvent[]];
}

/** A request in the engine's care: its sequence, its reader, and when what happened. */
interface Tracked extends RequestClock {
  sequence: Sequence;
  generation: Generation;
}

/** Steps that fail one after another before the engine calls itself unhealthy. */
const FAILURES_UNTIL_UNHEALTHY = 3;

/**
 * The step loop. One step is in flight; while it runs natively, the tokens of the step before it are delivered, and
 * whoever reads them turns them into text. It sleeps when nothing can be computed.
 *
 * A request fails alone where its values are not finite, a step's requests fail together where the runner rejects
 * it, and the engine goes on. Only a broken invariant of the scheduler stops it for good.
 */
export class Engine extends EventEmitter<EngineEvents> {
  readonly info: RunnerInfo;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;

  private readonly scheduler: Scheduler;
  private readonly journal: CacheJournal | undefined;
  private readonly tracked = new Map<Sequence, Tracked>();
  private submitted = 0;
  private looping: Promise<void> | null = null;
  private consecutiveFailures = 0;
  private state: 'serving' | 'draining' | 'closed' = 'serving';
  private fatal: Error | null = null;
  private readonly telemetry = new Telemetry();
  private whenEmpty: (() => void)[] = [];

  constructor(
    private readonly runner: ModelRunner,
    private readonly options: EngineOptions,
  ) {
    super();
    this.info = runner.info;
    this.maxNumBatchedTokens = Math.min(options.maxNumBatchedTokens, runner.info.maxBatchedTokens);
    // A step has room for one token of every sequence, or those of the last rank would never move.
    this.maxNumSeqs = Math.min(options.maxNumSeqs, runner.info.maxSlots, this.maxNumBatchedTokens);
    if (!(this.maxNumSeqs >= 1))
      throw new RangeError('maxNumSeqs and maxNumBatchedTokens must be at least 1');
    const { prefixCache, cacheEventSeed } = options;
    if (cacheEventSeed !== undefined) this.journal = new CacheJournal(cacheEventSeed);
    const blocks = new BlockManager(runner.info.numBlocks, { prefixCache, journal: this.journal });
    const { maxNumSeqs, maxNumBatchedTokens } = this;
    const { lookAhead = false } = runner.info;
    this.scheduler = new Scheduler({ maxNumSeqs, maxNumBatchedTokens, lookAhead }, blocks);
  }

  /**
   * Queues a request.
   * @throws FiligreeError `queue_full`, `server_draining`, `context_length_exceeded`, `invalid_value`, `engine_failed`
   */
  submit(request: GenerateRequest): Generation {
    this.assertAccepts();
    validateRequest(request, this.info);
    const { scheduler } = this;
    if (
      scheduler.waiting.length > 0 &&
      scheduler.waitingTokens + request.prompt.length > this.options.queueTokenLimit
    ) {
      throw queueFull('prompt tokens');
    }
    const sequence = new Sequence(request, this.submitted++, this.info.maxModelLen);
    scheduler.add(sequence);
    this.runner.holdBack?.();
    const generation = new Generation(request.id, {
      cancel: () => this.cancel(sequence),
      setPaused: (paused) => {
        sequence.paused = paused;
        if (paused) return;
        this.runner.holdBack?.();
        this.wake();
      },
    });
    const arrival = request.arrival ?? performance.now();
    this.tracked.set(sequence, {
      sequence,
      generation,
      arrival,
      scheduled: null,
      firstToken: null,
      lastToken: null,
    });
    this.wake();
    return generation;
  }

  /** Throws what `submit` would for any request: for callers that want to know before they tokenize. */
  assertAccepts(requests = 1): void {
    if (this.fatal !== null) throw engineFailed(this.fatal);
    if (this.state !== 'serving') {
      throw new FiligreeError('server_draining', 'The server is shutting down. Retry on another one.', {
        retryAfter: 1,
      });
    }
    const { waiting, running } = this.scheduler;
    const runnable = this.maxNumSeqs - running.length;
    if (waiting.length + requests > this.options.queueLimit + Math.max(runnable, requests)) {
      throw queueFull('requests');
    }
  }

  stats(): EngineStats {
    const { blocks, counters, running, waiting, waitingTokens } = this.scheduler;
    return {
      running: running.length,
      waiting: waiting.length,
      waitingTokens,
      numBlocks: blocks.numBlocks,
      usedBlocks: blocks.used,
      kvUsage: blocks.used / blocks.numBlocks,
      ...this.telemetry.totals,
      ...counters,
      runningAdapters: adaptersOf(running),
      waitingAdapters: adaptersOf(waiting),
    };
  }

  /** False while a step outlasts the watchdog, when steps keep failing, and for good after an internal fault. */
  healthy(): boolean {
    if (this.fatal !== null || this.consecutiveFailures >= FAILURES_UNTIL_UNHEALTHY) return false;
    const { watchdogMs } = this.options;
    return watchdogMs === undefined || !this.telemetry.overdue(watchdogMs);
  }

  /** Admits nothing more and waits for what runs; what is left after `timeoutMs` is cancelled. */
  async drain(timeoutMs: number): Promise<void> {
    if (this.state === 'serving') this.state = 'draining';
    if (this.tracked.size === 0) return;
    const empty = new Promise<void>((resolve) => this.whenEmpty.push(resolve));
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMs);
    });
    await Promise.race([empty, timeout]);
    clearTimeout(timer);
    this.cancelAll();
  }

  /** Cancels everything, waits for the step in flight, closes the runner. */
  async close(): Promise<void> {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.cancelAll();
    await this.looping;
    await this.runner.close();
  }

  /** Names of the blocks in the prefix cache, as `cache` events give them. For tests. */
  cachedDigests(): Buffer[] {
    return this.scheduler.blocks.digests();
  }

  /** Verifies the exact accounting of blocks, slots and queues; throws what is wrong. For tests. */
  check(): void {
    this.scheduler.check();
  }

  private wake(): void {
    if (this.looping !== null || this.fatal !== null) return;
    // In the next turn of the event loop, so that requests that arrive together start together.
    this.looping = new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.loop());
  }

  private async loop(): Promise<void> {
    try {
      let unread: SequenceUpdate[] = [];
      this.telemetry.idle();
      for (;;) {
        const schedule = this.prepare();
        if (schedule === null) {
          this.deliver(unread);
          if (unread.length > 0) {
            unread = [];
            continue;
          }
          break;
        }
        const outputs = await this.run(schedule, unread);
        unread = outputs === null ? [] : this.land(schedule, outputs);
        this.reportCache();
      }
      this.reportCache();
      this.looping = null;
    } catch (error) {
      this.fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Schedules a step and binds its slots; null when there is nothing to compute. */
  private prepare(): Schedule | null {
    for (;;) {
      const schedule = this.scheduler.schedule();
      for (const slot of schedule?.closed ?? this.scheduler.takeClosed()) this.runner.closeSlot(slot);
      if (schedule === null) return null;
      const now = performance.now();
      for (const sequence of schedule.opened) {
        const tracked = this.tracked.get(sequence) as Tracked;
        tracked.scheduled ??= now;
        try {
          const { slot, sampling, request, output } = sequence;
          this.runner.openSlot(slot, sampling, request.prompt, output, request.adapter);
        } catch (error) {
          this.scheduler.withdraw(sequence, error as Error);
          this.finish(sequence);
        }
      }
      if (schedule.sequences.length > 0) return schedule;
    }
  }

  /** Starts the step, delivers the one before it meanwhile, and waits. Null when the step failed. */
  private async run(schedule: Schedule, unread: SequenceUpdate[]): Promise<StepOutput[] | null> {
    this.telemetry.begin();
    // A runner that throws at once is one that rejects.
    const step = (async () => this.runner.step(schedule.record))();
    this.deliver(unread);
    try {
      const outputs = await step;
      this.consecutiveFailures = 0;
      return outputs;
    } catch (error) {
      this.telemetry.fail();
      this.consecutiveFailures++;
      for (const sequence of this.scheduler.failStep(engineFailed(error as Error))) this.finish(sequence);
      return null;
    }
  }

  /** Takes a step's results into the schedule, keeps time, reports the step. */
  private land(schedule: Schedule, outputs: StepOutput[]): SequenceUpdate[] {
    const info = this.telemetry.end(schedule, this.runner.computeMs ?? null);
    const updates = this.scheduler.update(outputs);
    for (const { sequence, token, forced } of updates) {
      const tracked = this.tracked.get(sequence);
      if (token === null || tracked === undefined) continue;
      this.telemetry.gain(info, tracked, 1 + forced.length, sequence.promptLength);
    }
    this.report('step', info);
    return updates;
  }

  private reportCache(): void {
    const events = this.journal?.take() ?? [];
    if (events.length > 0) this.report('cache', events);
  }

  private deliver(updates: SequenceUpdate[]): void {
    for (const { sequence, prompt, pooled, token, forced } of updates) {
      const generation = this.tracked.get(sequence)?.generation;
      if (generation === undefined) continue;
      if (prompt !== null) generation.push({ type: 'prompt', ...prompt });
      if (pooled !== null) generation.push({ type: 'pooled', state: pooled });
      if (token !== null) {
        // Only the last token of an output can have ended it, and nothing is sampled after it.
        const stopped = sequence.finishReason === 'stop';
        const isStop = stopped && forced.length === 0;
        generation.push({ type: 'token', token: token.id, logprob: token.logprob, top: token.top, isStop });
        forced.forEach((id, i) => {
          const last = stopped && i + 1 === forced.length;
          generation.push({ type: 'token', token: id, logprob: 0, top: null, isStop: last });
        });
      }
      if (sequence.finishReason !== null) this.finish(sequence);
    }
  }

  private cancel(sequence: Sequence): void {
    if (!this.tracked.has(sequence)) return;
    // A sequence that ended by itself in the last step keeps its own reason.
    if (sequence.finishReason === null) {
      sequence.finishReason = 'abort';
      this.scheduler.abort(sequence);
    }
    this.finish(sequence);
    // Its slot is closed and its blocks reused only by a turn of the loop.
    this.wake();
  }

  private cancelAll(): void {
    for (const sequence of [...this.tracked.keys()]) this.cancel(sequence);
  }

  /** The last event of a request, and the end of our interest in it. */
  private finish(sequence: Sequence): void {
    const tracked = this.tracked.get(sequence);
    if (tracked === undefined) return;
    this.tracked.delete(sequence);
    const { arrival, scheduled, firstToken } = tracked;
    const timings: RequestTimings = { arrival, scheduled, firstToken, finished: performance.now() };
    const event: FinishEvent = {
      type: 'finish',
      finishReason: sequence.finishReason ?? 'abort',
      stopTokenId: sequence.stopTokenId,
      error: sequence.error,
      promptTokens: sequence.promptLength,
      outputTokens: sequence.outputLength,
      cachedTokens: Math.max(0, sequence.cachedTokens),
      preemptions: sequence.preemptions,
      timings,
    };
    tracked.generation.push(event);
    this.report('finished', { ...event, id: sequence.request.id });
    if (this.tracked.size > 0) return;
    for (const resolve of this.whenEmpty) resolve();
    this.whenEmpty = [];
  }

  /** An invariant of ours is broken: what follows could be anyone's tokens, so nothing follows. */
  private fail(error: Error): void {
    this.fatal = error;
    this.telemetry.stop();
    this.looping = null;
    for (const { sequence } of [...this.tracked.values()]) {
      sequence.finishReason = 'error';
      sequence.error = engineFailed(error);
      this.finish(sequence);
    }
  }

  /** A listener's fault is its own: it must not stop the loop. */
  private report<K extends keyof EngineEvents>(name: K, ...args: EngineEvents[K]): void {
    try {
      (this.emit as (name: K, ...args: EngineEvents[K]) => boolean).call(this, name, ...args);
    } catch (error) {
      process.emitWarning(
        `a listener of '${name}' failed: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
}

const adaptersOf = (sequences: readonly Sequence[]): string[] => [
  ...new Set(sequences.flatMap(({ request }) => request.adapter ?? [])),
];

function engineFailed(cause: Error): FiligreeError {
  return new FiligreeError('engine_failed', `The engine failed: ${cause.message}`, { cause });
}
