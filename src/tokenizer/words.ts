import { type Merges, mergeLongWord } from './long-word.js';

/** What we use of a model of @huggingface/tokenizers: words to tokens. */
export type WordModel = ((words: string[]) => string[]) & {
  vocab: (string | undefined)[];
  tokens_to_ids: Map<string, number>;
  unk_token?: string;
  unk_token_id?: number;
  fuse_unk?: boolean;
  // Of byte-pair encoding only.
  bpe_ranks?: Map<string, number>;
  ignore_merges?: boolean;
  byte_fallback?: boolean;
  end_of_word_suffix?: string;
  continuing_subword_suffix?: string | null;
};

/** Words from this length on are ours to merge, in slices: the library takes microseconds a character, without a pause. */
const LONG_WORD = 256;
/** Characters of shorter words that the library encodes between two pauses. */
const RUN_CHARACTERS = 1024;

/** Words to ids, in slices: nothing in a text, however long or unbroken, holds up its caller. */
export class WordEncoder {
  /** Of byte-pair encoding whose words have no special beginnings or ends; null for other models. */
  private readonly merges: Merges | null;

  constructor(private readonly model: WordModel) {
    const { bpe_ranks: ranks, end_of_word_suffix: ending, continuing_subword_suffix: continuing } = model;
    this.merges =
      ranks === undefined || ending || continuing
        ? null
        : { rankOf: (left, right) => ranks.get(JSON.stringify([left, right])) };
  }

  /** Appends the ids of words, pausing about every millisecond of work. */
  *encode(words: string[], ids: number[]): Generator<void, void> {
    const { model } = this;
    const { tokens_to_ids: vocabulary, unk_token_id: unknown } = model;
    // The library fuses unknown tokens within a call; here also across the calls of one piece.
    let afterUnknown = false;
    const append = (tokens: string[]) => {
      for (const token of tokens) {
        const id = vocabulary.get(token) ?? unknown;
        if (id === undefined) continue;
        const isUnknown = id === unknown;
        if (!(isUnknown && afterUnknown && model.fuse_unk === true)) ids.push(id);
        afterUnknown = isUnknown;
      }
    };
    let begin = 0;
    let characters = 0;
    for (let i = 0; i <= words.length; i++) {
      const word = words[i];
      const long = word !== undefined && word.length >= LONG_WORD && this.merges !== null;
      if (word === undefined || long || characters >= RUN_CHARACTERS) {
        if (i > begin) append(model(words.slice(begin, i)));
        begin = long ? i + 1 : i;
        characters = 0;
        yield;
      }
      if (!long) characters += word?.length ?? 0;
      else if (model.ignore_merges && vocabulary.has(word)) append([word]);
      else
        append((yield* mergeLongWord(word, this.merges as Merges)).flatMap((token) => this.covered(token)));
    }
  }

  /** A piece as tokens: itself where it is one, else its bytes where the model falls back to them, else unknown. */
  private covered(piece: string): string[] {
    const { tokens_to_ids: vocabulary, byte_fallback: byteFallback, unk_token: unknown } = this.model;
    if (vocabulary.has(piece)) return [piece];
    if (byteFallback) {
      const bytes = [...encoder.encode(piece)].map(
        (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
      );
      if (bytes.every((byte) => vocabulary.has(byte))) return bytes;
    }
    return unknown == null ? [] : [unknown];
  }
}

const encoder = new TextEncoder();
