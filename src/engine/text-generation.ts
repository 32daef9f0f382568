import { FiligreeError } from '../errors.js';
import { TextStream, type Tokenizer } from '../tokenizer/index.js';
import type { Engine } from './engine.js';
import type { TopLogprobs } from './model-runner.js';
import type { FinishEvent, GenerateRequest, PromptEvent } from './request.js';

/** A request in tokens, and how its tokens become text. */
export interface TextRequest extends GenerateRequest {
  /** Strings that end the output. */
  stop: readonly string[];
  /** Keep the matched stop string in the text. */
  includeStop: boolean;
  /** Leave control tokens out of the text. */
  skipSpecial: boolean;
  /** The text is read right behind the prompt's: a leading space is part of it. */
  continuation: boolean;
}

export interface SampledToken {
  id: number;
  logprob: number;
  top: TopLogprobs | null;
}

/** What was added since the last delta: text never taken back, and the tokens sampled meanwhile. */
export interface TextDelta {
  text: string;
  tokens: SampledToken[];
}

export interface TextResult extends Omit<FinishEvent, 'type' | 'finishReason' | 'error' | 'stopTokenId'> {
  finishReason: 'stop' | 'length' | 'abort';
  /** The stop string, or the id of the stop token; null where the length or a cancellation ended the output. */
  stopReason: string | number | null;
}

/**
 * One generation as text.
 *
 * Tokens arrive at the pace of the engine's steps and leave at the pace of the reader: what the reader has not taken
 * is merged into one pending delta. A slow reader therefore costs at most the text of one answer, however slow it is,
 * and the engine never waits for it.
 */
export class TextGeneration {
  /** Set once, before the first token, where prompt log-probabilities were asked for. */
  prompt: PromptEvent | null = null;
  result: TextResult | null = null;
  error: Error | null = null;
  /** Sum over the sampled tokens; needs `sampling.logprobs >= 0`. */
  cumulativeLogprob = 0;
  outputTokens = 0;

  private pendingText = '';
  private pendingTokens: SampledToken[] = [];
  private readonly stream: TextStream;
  private readonly generation: ReturnType<Engine['submit']>;
  private stoppedBy: string | null = null;

  /**
   * @param changed called whenever there is something new to take
   * @throws FiligreeError when the engine refuses the request (queue full, prompt too long)
   */
  constructor(
    engine: Engine,
    tokenizer: Tokenizer,
    private readonly request: TextRequest,
    private readonly changed: () => void,
  ) {
    this.stream = new TextStream(tokenizer, {
      stop: [...request.stop],
      includeStop: request.includeStop,
      skipSpecial: request.skipSpecial,
      minTokens: request.sampling.minTokens,
      continuation: request.continuation,
    });
    this.generation = engine.submit(request);
    void this.pump();
  }

  get finished(): boolean {
    return this.result !== null || this.error !== null;
  }

  /** The new text, or the new tokens when the generation has ended; null when there is nothing to show yet. */
  take(): TextDelta | null {
    const flushTokens = this.finished && this.pendingTokens.length > 0;
    if (this.pendingText === '' && !flushTokens) return null;
    const delta = { text: this.pendingText, tokens: this.pendingTokens };
    this.pendingText = '';
    this.pendingTokens = [];
    return delta;
  }

  cancel(): void {
    this.generation.cancel();
  }

  private async pump(): Promise<void> {
    try {
      for await (const event of this.generation) {
        if (event.type === 'prompt') this.prompt = event;
        else if (event.type === 'finish') this.finish(event);
        else if (event.type === 'token' && this.stoppedBy === null) {
          this.outputTokens++;
          this.cumulativeLogprob += event.logprob;
          this.pendingTokens.push({ id: event.token, logprob: event.logprob, top: event.top });
          if (event.isStop && !this.request.includeStop) continue;
          const { text, stopped } = this.stream.push(event.token);
          this.pendingText += text;
          if (stopped !== null) {
            this.stoppedBy = stopped;
            this.generation.cancel();
          } else if (text !== '') this.changed();
        }
      }
      if (!this.finished) throw new Error('the engine ended a generation without a finish event');
    } catch (error) {
      this.error = error instanceof Error ? error : new Error(String(error));
    }
    this.changed();
  }

  private finish(event: FinishEvent): void {
    if (event.finishReason === 'error') {
      this.error = event.error ?? new Error('generation failed');
      return;
    }
    if (this.stoppedBy === null) this.pendingText += this.stream.flush();
    this.result = {
      finishReason: this.stoppedBy === null ? event.finishReason : 'stop',
      stopReason: this.stoppedBy ?? event.stopTokenId,
      promptTokens: event.promptTokens,
      outputTokens: this.outputTokens,
      cachedTokens: event.cachedTokens,
      preemptions: event.preemptions,
      timings: event.timings,
    };
  }
}

export interface BatchEvent {
  index: number;
  generation: TextGeneration;
  /** Null in the last event of a generation, whose result is then set. */
  delta: TextDelta | null;
}

/**
 * Several generations read as one stream: the choices of `n`, the prompts of a batch.
 *
 * At most `window` of them are with the engine at once; the others follow as these end. So a batch larger than the
 * engine's queue is served, and leaves room in the queue for everybody else.
 */
export class TextBatch {
  readonly generations: TextGeneration[] = [];
  private reading = 0;
  private wakeReader: (() => void) | null = null;
  private news = false;
  private cancelled = false;

  /** @throws FiligreeError when the engine refuses the first window; nothing is left running then */
  constructor(
    private readonly engine: Engine,
    private readonly tokenizer: Tokenizer,
    private readonly requests: readonly TextRequest[],
    private readonly window: number,
  ) {
    try {
      this.submit();
    } catch (error) {
      this.cancel();
      throw error;
    }
  }

  /** Every generation's deltas in order, those of different generations interleaved; throws what one fails with. */
  async *read(): AsyncGenerator<BatchEvent> {
    const done = new Set<number>();
    try {
      while (done.size < this.requests.length && !(this.cancelled && done.size === this.generations.length)) {
        this.news = false;
        this.submit();
        for (let index = this.reading; index < this.generations.length; index++) {
          if (done.has(index)) continue;
          const generation = this.generations[index] as TextGeneration;
          // Looked at before taking: what arrives in between is taken in the next round.
          const { finished } = generation;
          const delta = generation.take();
          if (delta !== null) yield { index, generation, delta };
          if (!finished) continue;
          if (generation.error !== null) throw generation.error;
          done.add(index);
          this.news = true;
          yield { index, generation, delta: null };
        }
        while (done.has(this.reading)) this.reading++;
        if (!this.news)
          await new Promise<void>((resolve) => {
            this.wakeReader = resolve;
          });
      }
    } finally {
      this.cancel();
    }
  }

  cancel(): void {
    this.cancelled = true;
    for (const generation of this.generations) generation.cancel();
    this.wake();
  }

  private submit(): void {
    let running = 0;
    for (let i = this.reading; i < this.generations.length; i++)
      if (!(this.generations[i] as TextGeneration).finished) running++;
    while (!this.cancelled && running < this.window && this.generations.length < this.requests.length) {
      const request = this.requests[this.generations.length] as TextRequest;
      try {
        this.generations.push(new TextGeneration(this.engine, this.tokenizer, request, () => this.wake()));
      } catch (error) {
        // The queue filled up behind us: those that run make room.
        const full = error instanceof FiligreeError && error.code === 'queue_full';
        if (!full || running === 0) throw error;
        return;
      }
      running++;
    }
  }

  private wake(): void {
    this.news = true;
    this.wakeReader?.();
    this.wakeReader = null;
  }
}
