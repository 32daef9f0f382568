import type { Tokenizer } from './tokenizer.js';

export interface TextStreamOptions {
  /** Strings that end the text. */
  stop: readonly string[];
  /** Keep the matched stop string. */
  includeStop: boolean;
  skipSpecial: boolean;
  /** Stop strings count only from the token after this many. */
  minTokens?: number;
  /** The text continues a prompt: keep a leading space that sentencepiece would drop. */
  continuation?: boolean;
}

export interface TextPiece {
  /** Text that is safe to show: it will never be taken back. */
  text: string;
  /** The stop string that ended the text. */
  stopped: string | null;
}

/**
 * Tokens in, append-only text out. Bytes of an incomplete character wait for the rest, and so does the longest tail
 * that may begin a stop string. The pieces and `flush` together are the text of all tokens, cut at the stop string
 * whose last character comes first, however the text is divided into tokens.
 */
export class TextStream {
  private readonly decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  private readonly stops: readonly string[];
  private readonly longest: number;
  private held = '';
  private tokens = 0;
  private atStart: boolean;
  private ended = false;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: TextStreamOptions,
  ) {
    this.stops = options.stop.filter((stop) => stop !== '');
    this.longest = Math.max(0, ...this.stops.map((stop) => stop.length));
    this.atStart = tokenizer.rule.stripsLeadingSpace && !options.continuation;
  }

  push(token: number): TextPiece {
    if (this.ended) return { text: '', stopped: null };
    this.tokens++;
    if (this.options.skipSpecial && this.tokenizer.isSpecial(token)) return { text: '', stopped: null };
    let bytes = this.tokenizer.tokenBytes(token);
    if (this.atStart && bytes.length > 0) {
      this.atStart = false;
      if (bytes[0] === 0x20) bytes = bytes.subarray(1);
    }
    return this.take(this.decoder.decode(bytes, { stream: true }));
  }

  /** What still waits, when no more tokens come. */
  flush(): string {
    if (this.ended) return '';
    const { text } = this.take(this.decoder.decode());
    const rest = this.held;
    this.held = '';
    this.ended = true;
    return text + rest;
  }

  private take(added: string): TextPiece {
    if (this.stops.length === 0 || this.tokens <= (this.options.minTokens ?? 0))
      return { text: added, stopped: null };
    const text = this.held + added;
    const found = this.findStop(text);
    if (found !== null) {
      this.ended = true;
      this.held = '';
      const end = this.options.includeStop ? found.start + found.stop.length : found.start;
      return { text: text.slice(0, end), stopped: found.stop };
    }
    const keep = this.tailThatMayStop(text);
    this.held = text.slice(text.length - keep);
    return { text: text.slice(0, text.length - keep), stopped: null };
  }

  private findStop(text: string): { start: number; stop: string } | null {
    let best: { start: number; stop: string } | null = null;
    for (const stop of this.stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      const bestEnd = best === null ? Number.POSITIVE_INFINITY : best.start + best.stop.length;
      if (end < bestEnd || (end === bestEnd && start < (best as { start: number }).start))
        best = { start, stop };
    }
    return best;
  }

  /** Length of the longest tail that is a proper beginning of a stop string. */
  private tailThatMayStop(text: string): number {
    for (let length = Math.min(this.longest - 1, text.length); length > 0; length--) {
      const tail = text.slice(text.length - length);
      if (this.stops.some((stop) => stop.length > length && stop.startsWith(tail))) return length;
    }
    return 0;
  }
}
