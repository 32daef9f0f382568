import { FiligreeError } from '../errors.js';
import type { JsonObject } from './fields.js';
import type { SentencePieceModel } from './sentencepiece.js';

const SPACE = '▁';

export interface AddedTokenJson {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

export const addedToken = (id: number, content: string, special: boolean): AddedTokenJson => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special,
});

/** A post-processor that puts single tokens around a text; null where there are none. */
export function surroundingTokens(
  bos: [string, number] | null,
  eos: [string, number] | null,
): JsonObject | null {
  if (bos === null && eos === null) return null;
  const special = (token: [string, number] | null) =>
    token === null ? [] : [{ SpecialToken: { id: token[0], type_id: 0 } }];
  const single = [...special(bos), { Sequence: { id: 'A', type_id: 0 } }, ...special(eos)];
  const tokens = [bos, eos].filter((t) => t !== null);
  return {
    type: 'TemplateProcessing',
    single,
    pair: [...single, ...special(bos), { Sequence: { id: 'B', type_id: 1 } }, ...special(eos)],
    special_tokens: Object.fromEntries(
      tokens.map(([text, id]) => [text, { id: text, ids: [id], tokens: [text] }]),
    ),
  };
}

/**
 * A sentencepiece BPE vocabulary as the structure of a tokenizer.json, as transformers converts Llama's: spaces become
 * ▁, one stands in front of the text, and what no piece covers falls back to bytes.
 *
 * sentencepiece joins, at each step, the neighbours whose joined piece has the highest score. That is BPE with a merge
 * for every way to cut a piece into two others, ranked by the piece's score; of one piece's cuts, the one whose left part
 * has the lower id comes first (convert_slow_tokenizer.py, generate_merges, as the published Llama and Mistral files have
 * it).
 */
export function spmTokenizerJson(
  model: SentencePieceModel,
  around: { bos: string | null; eos: string | null },
): JsonObject {
  // A Map, as a piece may be named __proto__; the last of two equal pieces would win, sentencepiece forbids them.
  const vocab = new Map<string, number>();
  for (const [id, piece] of model.pieces.entries()) {
    if (!vocab.has(piece.text)) vocab.set(piece.text, id);
  }
  const unk = model.pieces[model.unkId]?.text ?? null;
  const post = (text: string | null): [string, number] | null => {
    const id = text === null ? undefined : vocab.get(text);
    if (text !== null && id === undefined)
      throw new FiligreeError('tokenizer_invalid', `the tokenizer's vocabulary lacks its own token ${text}`);
    return text === null ? null : [text, id as number];
  };
  const prefix = model.addDummyPrefix ? [{ type: 'Prepend', prepend: SPACE }] : [];
  const strip = model.addDummyPrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : [];
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: model.pieces.flatMap((piece, id) =>
      piece.kind === 'control' || piece.kind === 'unknown' || piece.kind === 'user'
        ? [addedToken(id, piece.text, piece.kind !== 'user')]
        : [],
    ),
    normalizer: {
      type: 'Sequence',
      normalizers: [...prefix, { type: 'Replace', pattern: { String: ' ' }, content: SPACE }],
    },
    pre_tokenizer: null,
    post_processor: surroundingTokens(post(around.bos), post(around.eos)),
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        ...strip,
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unk,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: model.byteFallback,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab),
      merges: mergesOf(model, vocab),
    },
  };
}

interface Merge {
  left: string;
  right: string;
  score: number;
}

function mergesOf(model: SentencePieceModel, vocab: Map<string, number>): [string, string][] {
  const joinable = (text: string): boolean => {
    const id = vocab.get(text);
    if (id === undefined) return false;
    const kind = model.pieces[id]?.kind;
    return kind === 'normal' || kind === 'user' || kind === 'unused';
  };
  const merges: Merge[] = [];
  for (const { text, score, kind } of model.pieces) {
    if (kind !== 'normal' && kind !== 'user') continue;
    const cuts: Merge[] = [];
    for (let i = 0; i < text.length; ) {
      i += (text.codePointAt(i) as number) > 0xffff ? 2 : 1;
      if (i >= text.length) break;
      const left = text.slice(0, i);
      const right = text.slice(i);
      if (joinable(left) && joinable(right)) cuts.push({ left, right, score });
    }
    cuts.sort((a, b) => (vocab.get(a.left) as number) - (vocab.get(b.left) as number));
    merges.push(...cuts);
  }
  merges.sort((a, b) => b.score - a.score);
  return merges.map(({ left, right }) => [left, right]);
}
