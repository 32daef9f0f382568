import { TextStream } from '../tokenizer/index.js';
import type { Tokenizer } from '../tokenizer/index.js';
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
  /** The stop string, or the stop token's id where the caller named it; null for the end of sequence and length. */
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
    private readonly onToken?: () => void,
  ) {
    this.stream = new TextStream(tokenizer, {
      stop: [...request.stop],
      includeStop: request.includeStop,
      skipSpecial: request.skipSpecial,
      minTokens: request.sampling.minTokens,
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
        else if (this.stoppedBy === null) {
          this.outputTokens++;
          this.cumulativeLogprob += event.logprob;
          this.pendingTokens.push({ id: event.token, logprob: event.logprob, top: event.top });
          this.onToken?.();
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

/** Wakes the one reader of several generations: `n` choices, or the prompts of a batch. */
export class Mailbox {
  private wakeReader: (() => void) | null = null;
  private news = false;

  readonly wake = (): void => {
    this.news = true;
    this.wakeReader?.();
    this.wakeReader = null;
  };

  async wait(): Promise<void> {
    if (!this.news)
      await new Promise<void>((resolve) => {
        this.wakeReader = resolve;
      });
    this.news = false;
  }
}

/** Every delta of one generation, in order; throws what the generation failed with. */
export async function* textDeltas(generation: TextGeneration, mailbox: Mailbox): AsyncGenerator<TextDelta> {
  for (;;) {
    const finished = generation.finished;
    const delta = generation.take();
    if (delta !== null) yield delta;
    if (generation.error !== null) throw generation.error;
    if (finished) return;
    await mailbox.wait();
  }
}
