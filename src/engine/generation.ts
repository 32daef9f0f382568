import type { FinishEvent, GenerationEvent } from './request.js';

/** Events a consumer may leave unread before its sequence pauses, and the backlog at which it goes on. */
const PAUSE_AT = 1024;
const RESUME_AT = 256;

export interface GenerationOwner {
  cancel(): void;
  /** The consumer has fallen behind, or caught up: the buffer is bounded, and nobody else waits for it. */
  setPaused(paused: boolean): void;
}

/**
 * One request's events, for one reader: log-probabilities of the prompt where asked for, the tokens, one `finish`.
 * Leaving the loop early cancels the request.
 */
export class Generation implements AsyncIterableIterator<GenerationEvent> {
  private events: GenerationEvent[] = [];
  private head = 0;
  private reader: ((result: IteratorResult<GenerationEvent>) => void) | null = null;
  private ended = false;
  private paused = false;

  constructor(
    readonly id: string,
    private readonly owner: GenerationOwner,
  ) {}

  /** Whether the `finish` event has been produced (it may still be unread). */
  get finished(): boolean {
    return this.ended;
  }

  /** Stops the request wherever it stands; a `finish` event with reason `abort` follows unless it has ended. */
  cancel(): void {
    if (!this.ended) this.owner.cancel();
  }

  next(): Promise<IteratorResult<GenerationEvent>> {
    if (this.head < this.events.length) {
      const value = this.events[this.head++] as GenerationEvent;
      if (this.head === this.events.length) {
        this.events = [];
        this.head = 0;
      }
      if (this.paused && this.backlog <= RESUME_AT) {
        this.paused = false;
        this.owner.setPaused(false);
      }
      return Promise.resolve({ value, done: false });
    }
    if (this.ended) return Promise.resolve({ value: undefined, done: true });
    if (this.reader !== null) return Promise.reject(new Error('a generation has one reader'));
    return new Promise((resolve) => {
      this.reader = resolve;
    });
  }

  return(): Promise<IteratorResult<GenerationEvent>> {
    this.cancel();
    this.events = [];
    this.head = 0;
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Reads to the end; for callers that want no stream. */
  async result(): Promise<{ tokens: number[]; finish: FinishEvent }> {
    const tokens: number[] = [];
    for await (const event of this) {
      if (event.type === 'token') tokens.push(event.token);
      if (event.type === 'finish') return { tokens, finish: event };
    }
    throw new Error('the generation was read before');
  }

  /** For the engine. Events after `finish` are dropped. */
  push(event: GenerationEvent): void {
    if (this.ended) return;
    this.ended = event.type === 'finish';
    if (this.reader !== null) {
      const reader = this.reader;
      this.reader = null;
      reader({ value: event, done: false });
      return;
    }
    this.events.push(event);
    if (!this.paused && !this.ended && this.backlog >= PAUSE_AT) {
      this.paused = true;
      this.owner.setPaused(true);
    }
  }

  private get backlog(): number {
    return this.events.length - this.head;
  }
}
