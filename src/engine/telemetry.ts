import type { FinishEvent } from './request.js';
import type { Schedule } from './scheduler.js';

export interface EngineStats {
  running: number;
  waiting: number;
  waitingTokens: number;
  numBlocks: number;
  usedBlocks: number;
  /** Used share of the KV cache, 0 to 1; free cached blocks count as free. */
  kvUsage: number;
  /** Totals since the start. */
  promptTokens: number;
  generationTokens: number;
  prefixQueries: number;
  prefixHits: number;
  preemptions: number;
  steps: number;
  failedSteps: number;
  /** Adapters of the sequences that run, and of those that wait. */
  runningAdapters: string[];
  waitingAdapters: string[];
}

/** One step, as metrics want it. Milliseconds. */
export interface StepInfo {
  durationMs: number;
  /** The part of it that the runner computed; the rest is the way there and back. Null where the runner does not say. */
  computeMs: number | null;
  /** From the end of the step before it to its start: what JavaScript kept the runner waiting. Null after idling. */
  gapMs: number | null;
  sequences: number;
  tokens: number;
  prefillTokens: number;
  /** Arrival to first token, of the sequences whose first token this step gave. */
  timeToFirstTokenMs: number[];
  /** Since the sequence's token before, of all others that got one. */
  interTokenMs: number[];
}

export interface FinishedInfo extends FinishEvent {
  id: string;
}

/** When what happened to a request, in the clock of `performance.now()`; null for what has not yet. */
export interface RequestClock {
  arrival: number;
  scheduled: number | null;
  firstToken: number | null;
  lastToken: number | null;
}

/** Times steps and requests and counts tokens: what the engine knows only to report it. */
export class Telemetry {
  readonly totals = { promptTokens: 0, generationTokens: 0, steps: 0, failedSteps: 0 };
  private started: number | null = null;
  private ended: number | null = null;

  /** A step begins. */
  begin(): void {
    this.started = performance.now();
  }

  /** Nothing is left to compute: the gap to the next step is nobody's fault. */
  idle(): void {
    this.ended = null;
  }

  /** The step under way came to nothing. */
  fail(): void {
    this.totals.failedSteps++;
    this.started = null;
    this.ended = null;
  }

  /** No step is under way any more, for good. */
  stop(): void {
    this.started = null;
  }

  /** Whether the step under way has taken longer than that. */
  overdue(ms: number): boolean {
    return this.started !== null && performance.now() - this.started > ms;
  }

  /** The step under way has ended; `gain` then adds what it gave. */
  end({ record, prefillTokens }: Schedule, computeMs: number | null): StepInfo {
    const now = performance.now();
    const started = this.started as number;
    const info: StepInfo = {
      durationMs: now - started,
      computeMs,
      gapMs: this.ended === null ? null : started - this.ended,
      sequences: record.entries.length,
      tokens: record.entries.reduce((sum, entry) => sum + entry.tokens.length, 0),
      prefillTokens,
      timeToFirstTokenMs: [],
      interTokenMs: [],
    };
    this.started = null;
    this.ended = now;
    this.totals.steps++;
    return info;
  }

  /** The step gave this request so many tokens. */
  gain(info: StepInfo, clock: RequestClock, tokens: number, promptLength: number): void {
    const now = this.ended as number;
    this.totals.generationTokens += tokens;
    if (clock.lastToken === null) {
      clock.firstToken = now;
      this.totals.promptTokens += promptLength;
      info.timeToFirstTokenMs.push(now - clock.arrival);
    } else {
      info.interTokenMs.push(now - clock.lastToken);
    }
    clock.lastToken = now;
  }
}
