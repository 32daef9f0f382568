import { FiligreeError } from '../errors.js';

/**
 * What the server is doing, and how many answers are under way. Draining refuses what is new at once and lets go of
 * the rest when the last answer has ended; an answer counts from before its prompt is rendered until its last byte
 * is handed to the socket.
 */
export class Lifecycle {
  private count = 0;
  private drainStarted = false;
  private readonly whenIdle: (() => void)[] = [];

  /** @param limit answers under way at most: what can run and what may wait */
  constructor(private readonly limit: number) {}

  get draining(): boolean {
    return this.drainStarted;
  }

  /** Answers under way. */
  get active(): number {
    return this.count;
  }

  /** @returns call once, when the answer has ended. @throws FiligreeError server_draining, queue_full */
  enter(): () => void {
    if (this.drainStarted) {
      throw new FiligreeError(
        'server_draining',
        'The server is shutting down. Send the request to another one.',
        {
          retryAfter: 5,
        },
      );
    }
    if (this.count >= this.limit) {
      throw new FiligreeError(
        'queue_full',
        `The queue is full: ${this.count} requests are under way. Retry later.`,
        {
          retryAfter: 1,
        },
      );
    }
    this.count++;
    let left = false;
    return () => {
      if (left) return;
      left = true;
      if (--this.count === 0) for (const resolve of this.whenIdle.splice(0)) resolve();
    };
  }

  /** Refuses new answers; resolves to true when all have ended, to false after `timeoutMs`. */
  async drain(timeoutMs: number): Promise<boolean> {
    this.drainStarted = true;
    if (this.count === 0) return true;
    let timer: NodeJS.Timeout | undefined;
    const idle = new Promise<true>((resolve) => this.whenIdle.push(() => resolve(true)));
    const timeout = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    const finished = await Promise.race([idle, timeout]);
    clearTimeout(timer);
    return finished;
  }
}
