import type { Tokenizer } from './tokenizer.js';

/** Control tokens of fill-in-the-middle, by family: before the prefix, before the suffix, before the middle. */
const FAMILIES: readonly (readonly [prefix: string, suffix: string, middle: string])[] = [
  // Qwen2.5-Coder, CodeGemma
  ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'],
  // StarCoder, SmolLM's relatives
  ['<fim_prefix>', '<fim_suffix>', '<fim_middle>'],
  // Granite Code
  ['<fim-prefix>', '<fim-suffix>', '<fim-middle>'],
  // DeepSeek-Coder: begin, hole, end stand where the text is, where it misses and where it ends
  ['<｜fim▁begin｜>', '<｜fim▁hole｜>', '<｜fim▁end｜>'],
  // CodeLlama
  ['▁<PRE>', '▁<SUF>', '▁<MID>'],
];

/** Tokens that a model writes where the middle is over, besides its end of sequence. */
const ENDS = [
  '<|endoftext|>',
  '<|fim_pad|>',
  '<|repo_name|>',
  '<|file_sep|>',
  '<fim_pad>',
  '<|file_separator|>',
  '▁<EOT>',
];

export interface Infill {
  /** Ids of a prompt that asks for what stands between two texts. What these spell stays text. */
  encode(prefix: string, suffix: string): number[];
  /** Ids that end the middle. */
  stopIds: number[];
}

/** Fill-in-the-middle in the order prefix, suffix, middle; null where the model has no tokens for it. */
export function infillOf(tokenizer: Tokenizer): Infill | null {
  for (const family of FAMILIES) {
    const ids = family.map((token) => tokenizer.tokenId(token));
    if (ids.some((id) => id === null)) continue;
    const [before, hole, middle] = ids as [number, number, number];
    const text = (part: string) => tokenizer.encode(part, { addSpecial: false, parseSpecial: false });
    const ends = [...ENDS, ...family].map((token) => tokenizer.tokenId(token));
    const begin = tokenizer.addBos && tokenizer.bosId !== null ? [tokenizer.bosId] : [];
    return {
      encode: (prefix, suffix) => [...begin, before, ...text(prefix), hole, ...text(suffix), middle],
      stopIds: [...new Set(ends.filter((id) => id !== null))],
    };
  }
  return null;
}
