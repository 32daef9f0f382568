import { Tokenizer as Pipeline } from '@huggingface/tokenizers';
import { FiligreeError } from '../errors.js';
import type { TokenizerSource } from '../model/manifest.js';
import { type TokenBytesRule, tokenBytesRule, tokenToBytes } from './token-bytes.js';
import { WordEncoder, type WordModel } from './words.js';

export interface EncodeOptions {
  /** Add what the tokenizer adds around a text (BOS, EOS). Default true. */
  addSpecial?: boolean;
  /** Text that spells a control token becomes that token. Default true; false for text that others wrote. */
  parseSpecial?: boolean;
}

export interface DecodeOptions {
  /** Leave control tokens out. Default true. */
  skipSpecial?: boolean;
  /** The text continues another: keep a leading space that sentencepiece would drop. Default false. */
  continuation?: boolean;
}

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
  lstrip: boolean;
  rstrip: boolean;
}

/** What we use of @huggingface/tokenizers: its stages. Splitting off added tokens and decoding are ours. */
interface Stages {
  normalizer: ((text: string) => string) | null;
  pre_tokenizer: ((text: string, options: { section_index: number }) => string[]) | null;
  model: WordModel;
  post_processor:
    | ((tokens: string[], pair: string[] | null, addSpecial: boolean) => { tokens: string[] })
    | null;
}

/** Work done between two turns of the event loop by `encodeAsync`. */
const SLICE_MS = 4;
/** Shorter texts are encoded at once. */
const ASYNC_FROM_CHARACTERS = 4096;
/**
 * Text to token ids and back, as the model's tokenizer.json says.
 *
 * A token is *control* when it is marked special or spelled like one (`<|...|>`); text only becomes a control token
 * where the caller says `parseSpecial`, or where the chat template itself wrote it.
 */
export class Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  readonly rule: TokenBytesRule;
  /** Texts of all control tokens. */
  readonly controlTexts: readonly string[];

  private readonly added = new Map<number, AddedToken>();
  private readonly addedByText = new Map<string, AddedToken>();
  private readonly control = new Set<number>();
  private readonly anyAdded: RegExp | null;
  private readonly plainAdded: RegExp | null;
  private readonly normalizedAdded: RegExp | null;
  private readonly normalizedByText = new Map<string, AddedToken>();
  private readonly bytes: (Uint8Array | undefined)[];
  private readonly splitWords: boolean;
  private readonly words: WordEncoder;

  /** @throws FiligreeError `tokenizer_invalid` */
  static create(source: TokenizerSource): Tokenizer {
    let stages: Stages;
    try {
      const json = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
      const full: Record<string, unknown> = { ...json, added_tokens: [], ...source.tokenizerJson };
      full.pre_tokenizer = withUnicodeDigits(full.pre_tokenizer);
      stages = new Pipeline(full, source.tokenizerConfigJson) as unknown as Stages;
    } catch (error) {
      throw new FiligreeError(
        'tokenizer_invalid',
        `The tokenizer cannot be read: ${(error as Error).message}`,
        {
          cause: error,
        },
      );
    }
    return new Tokenizer(source, stages);
  }

  private constructor(
    private readonly source: TokenizerSource,
    private readonly stages: Stages,
  ) {
    const { model, normalizer } = stages;
    this.rule = tokenBytesRule(source.tokenizerJson);
    for (const raw of (source.tokenizerJson.added_tokens as Partial<AddedToken>[] | undefined) ?? []) {
      if (typeof raw.id !== 'number' || typeof raw.content !== 'string' || raw.content === '') continue;
      const token: AddedToken = {
        special: false,
        normalized: false,
        lstrip: false,
        rstrip: false,
        ...raw,
      } as AddedToken;
      this.added.set(token.id, token);
      this.addedByText.set(token.content, token);
      if (token.special || /^<\|.*\|>$/s.test(token.content)) this.control.add(token.id);
    }
    const all = [...this.added.values()];
    const controls = all.filter((token) => this.control.has(token.id));
    this.controlTexts = controls.map((token) => token.content);
    const raw = (token: AddedToken) => this.control.has(token.id) || !token.normalized || normalizer === null;
    this.anyAdded = alternatives(all.filter(raw).map((token) => token.content));
    this.plainAdded = alternatives(
      all.filter((token) => raw(token) && !this.control.has(token.id)).map((token) => token.content),
    );
    for (const token of all.filter((token) => !raw(token))) {
      this.normalizedByText.set(normalizer?.(token.content) ?? token.content, token);
    }
    this.normalizedAdded = alternatives([...this.normalizedByText.keys()]);
    // The model itself must never produce a control token out of plain text; its unknown token is no such forgery.
    for (const token of controls) {
      if (token.content !== model.unk_token) model.tokens_to_ids.delete(token.content);
    }
    this.vocabSize = model.vocab.length;
    this.bytes = new Array(this.vocabSize);
    this.bosToken = source.config.bosToken;
    this.eosToken = source.config.eosToken;
    this.bosId = this.idOf(this.bosToken);
    this.eosId = this.idOf(this.eosToken);
    this.splitWords = stages.pre_tokenizer === null && spacesOnlyInFront(model.vocab);
    this.words = new WordEncoder(model);
  }

  /** Whether the tokenizer wants a BOS in front of a text. */
  get addBos(): boolean {
    return this.source.config.addBos;
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const ids = this.encodeSections(this.split(text, options.parseSpecial ?? true));
    return (options.addSpecial ?? true) ? this.surround(ids) : ids;
  }

  /** As `encode`, letting the event loop turn every few milliseconds while a long text is encoded. */
  async encodeAsync(text: string, options: EncodeOptions = {}): Promise<number[]> {
    if (text.length < ASYNC_FROM_CHARACTERS) return this.encode(text, options);
    const ids = await this.encodeSectionsAsync(this.split(text, options.parseSpecial ?? true));
    return (options.addSpecial ?? true) ? this.surround(ids) : ids;
  }

  /** Ids of sections as `split` gives them. */
  encodeSections(sections: (string | number)[]): number[] {
    const ids: number[] = [];
    const work = this.encoding(sections, ids);
    while (work.next().done !== true);
    return ids;
  }

  async encodeSectionsAsync(sections: (string | number)[]): Promise<number[]> {
    const ids: number[] = [];
    const work = this.encoding(sections, ids);
    let sliceEnd = performance.now() + SLICE_MS;
    while (work.next().done !== true) {
      if (performance.now() < sliceEnd) continue;
      await new Promise((resolve) => setImmediate(resolve));
      sliceEnd = performance.now() + SLICE_MS;
    }
    return ids;
  }

  /** The text of ids; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecial ?? true;
    const parts: Uint8Array[] = [];
    let size = 0;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] as number;
      if (skip && this.isSpecial(id)) continue;
      const bytes = this.tokenBytes(id);
      parts.push(bytes);
      size += bytes.length;
    }
    const all = new Uint8Array(size);
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    const strip = this.rule.stripsLeadingSpace && !options.continuation && all[0] === 0x20;
    return utf8.decode(strip ? all.subarray(1) : all);
  }

  /** Bytes that a token adds to a text; empty for an id without a token. */
  tokenBytes(id: number): Uint8Array {
    let bytes = this.bytes[id];
    if (bytes === undefined) {
      const token = this.stages.model.vocab[id];
      if (token === undefined) bytes = new Uint8Array();
      else if (this.added.has(id)) bytes = encoder.encode(token);
      else bytes = tokenToBytes(token, this.rule.family);
      this.bytes[id] = bytes;
    }
    return bytes;
  }

  /** A token's bytes as text, on their own. */
  tokenText(id: number): string {
    return utf8.decode(this.tokenBytes(id));
  }

  /** The id of a token by the text in the vocabulary (not of a text that encodes to one token). */
  tokenId(token: string): number | null {
    return this.idOf(token);
  }

  /** Marked special, or spelled like a control token. */
  isControl(id: number): boolean {
    return this.control.has(id);
  }

  /** A token added to the vocabulary; its text is its own, whatever it means. */
  isAdded(id: number): boolean {
    return this.added.has(id);
  }

  /** Marked special in the tokenizer: left out of text under `skipSpecial`. */
  isSpecial(id: number): boolean {
    return this.added.get(id)?.special ?? false;
  }

  /**
   * Cuts a text at its added tokens: ids for those, text for what lies between. Control tokens are found only where
   * `control` says so, and never across a `seam`, a position in the text.
   */
  split(text: string, control: boolean, seams?: ReadonlySet<number>): (string | number)[] {
    const sections: (string | number)[] = [];
    let start = 0;
    let swallow = false;
    const pushText = (end: number, trimEnd: boolean) => {
      let part = text.slice(start, end);
      if (swallow) part = part.trimStart();
      if (trimEnd) part = part.trimEnd();
      if (part !== '') sections.push(part);
    };
    const pattern = control ? this.anyAdded : this.plainAdded;
    if (pattern !== null) {
      pattern.lastIndex = 0;
      for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
        const token = this.addedByText.get(match[0]) as AddedToken;
        const end = match.index + match[0].length;
        if (seams !== undefined && this.control.has(token.id) && crosses(seams, match.index, end)) {
          pattern.lastIndex = match.index + 1;
          continue;
        }
        pushText(match.index, token.lstrip);
        sections.push(token.id);
        start = end;
        swallow = token.rstrip;
      }
    }
    pushText(text.length, false);
    return sections;
  }

  /** Puts BOS and EOS where the tokenizer wants them and they are not there yet. */
  surround(ids: number[]): number[] {
    const { post_processor: postProcessor, model } = this.stages;
    const around = postProcessor === null ? [] : postProcessor([MARK], null, true).tokens;
    const mark = around.indexOf(MARK);
    const id = (token: string) => this.addedByText.get(token)?.id ?? model.tokens_to_ids.get(token) ?? -1;
    const before = around
      .slice(0, Math.max(0, mark))
      .map(id)
      .filter((x) => x >= 0);
    const after = around
      .slice(mark + 1)
      .map(id)
      .filter((x) => x >= 0);
    const { addBos, addEos } = this.source.config;
    if (addBos && this.bosId !== null && before[0] !== this.bosId) before.unshift(this.bosId);
    if (addEos && this.eosId !== null && after.at(-1) !== this.eosId) after.push(this.eosId);
    if (before.length > 0 && before.every((token, i) => ids[i] === token)) before.length = 0;
    return before.length + after.length === 0 ? ids : [...before, ...ids, ...after];
  }

  /** A text between control tokens, as words for the model and ids of added tokens that match after normalization. */
  private prepare(section: string, index: number): (string[] | number)[] {
    const { normalizer, pre_tokenizer: preTokenizer } = this.stages;
    const text = normalizer === null ? section : normalizer(section);
    const pieces: (string[] | number)[] = [];
    const words = (part: string) => {
      if (part === '') return;
      if (preTokenizer !== null) pieces.push(preTokenizer(part, { section_index: index }));
      else pieces.push(this.splitWords ? part.split(WORD_START) : [part]);
    };
    if (this.normalizedAdded === null) {
      words(text);
      return pieces;
    }
    let start = 0;
    for (const match of text.matchAll(this.normalizedAdded)) {
      words(text.slice(start, match.index));
      pieces.push((this.normalizedByText.get(match[0]) as AddedToken).id);
      start = match.index + match[0].length;
    }
    words(text.slice(start));
    return pieces;
  }

  /** Appends the ids of sections, pausing about every millisecond of work. */
  private *encoding(sections: (string | number)[], ids: number[]): Generator<void, void> {
    for (let i = 0; i < sections.length; i++) {
      const section = sections[i] as string | number;
      if (typeof section === 'number') {
        ids.push(section);
        continue;
      }
      for (const piece of this.prepare(section, i)) {
        yield;
        if (typeof piece === 'number') ids.push(piece);
        else yield* this.words.encode(piece, ids);
      }
    }
  }

  private idOf(token: string | null): number | null {
    if (token === null) return null;
    return this.addedByText.get(token)?.id ?? this.stages.model.tokens_to_ids.get(token) ?? null;
  }
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
const encoder = new TextEncoder();
/** Stands for the text when a post-processor is asked what it puts around one. */
const MARK = '\u0000text\u0000';
/** Before the first U+2581 of each run, except at the start. */
const WORD_START = /(?<=[^\u2581])(?=\u2581)/;

/** Longest alternatives first: the match at a position is the longest token. */
function alternatives(texts: string[]): RegExp | null {
  if (texts.length === 0) return null;
  const sorted = [...texts].sort((a, b) => b.length - a.length);
  return new RegExp(sorted.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'g');
}

/** A Digits pre-tokenizer splits at every numeric character (Unicode N); the library's own knows ASCII digits only. */
function withUnicodeDigits(step: unknown): unknown {
  if (step === null || typeof step !== 'object') return step;
  const { type, pretokenizers, individual_digits: individual } = step as Record<string, unknown>;
  if (type === 'Sequence' && Array.isArray(pretokenizers)) {
    return { ...step, pretokenizers: pretokenizers.map(withUnicodeDigits) };
  }
  if (type !== 'Digits') return step;
  const Regex = individual === true ? '\\p{N}' : '\\p{N}+';
  return { type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false };
}

function crosses(seams: ReadonlySet<number>, start: number, end: number): boolean {
  for (let at = start + 1; at < end; at++) if (seams.has(at)) return true;
  return false;
}

/**
 * Llama-2-style tokenizers have no pre-tokenizer: a whole text is one word, which is slow. Where no token of the
 * vocabulary has a U+2581 behind another character, no merge can cross the start of a word, and cutting there first
 * changes nothing but the speed.
 */
function spacesOnlyInFront(vocab: (string | undefined)[]): boolean {
  return vocab.every((token) => token === undefined || !/[^\u2581]\u2581/.test(token));
}
