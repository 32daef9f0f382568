import type { JsonObject } from './fields.js';

/** How a GGUF's `tokenizer.ggml.pre` cuts text before BPE, as the stages of a tokenizer.json. */
export interface PreTokenizer {
  normalizer: JsonObject | null;
  stages: JsonObject[];
  /** A word that is a token is that token, whatever the merges. */
  ignoreMerges: boolean;
}

const byteLevel = (regex: boolean): JsonObject => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: regex,
});
const split = (regex: string): JsonObject => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
});

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const llama3 = (digits: string) =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const TEKKEN =
  '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|' +
  '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|' +
  '\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';

const gpt2: PreTokenizer = { normalizer: null, stages: [byteLevel(true)], ignoreMerges: false };
/** Digits are cut off one by one *before* the byte-level regex, so that a space before one stands alone. */
const singleDigits: PreTokenizer = {
  normalizer: null,
  stages: [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
  ignoreMerges: false,
};
const llamaBpe: PreTokenizer = {
  normalizer: null,
  stages: [split(llama3('\\p{N}{1,3}')), byteLevel(false)],
  ignoreMerges: true,
};
const qwen2: PreTokenizer = {
  normalizer: { type: 'NFC' },
  stages: [split(llama3('\\p{N}')), byteLevel(false)],
  ignoreMerges: false,
};
const tekken: PreTokenizer = {
  normalizer: null,
  stages: [split(TEKKEN), byteLevel(false)],
  ignoreMerges: true,
};
const deepseekCoder: PreTokenizer = {
  normalizer: null,
  stages: [
    split('[\\r\\n]'),
    split('\\s?\\p{L}+'),
    split('\\s?\\p{P}+'),
    split('[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+'),
    split('\\p{N}'),
    byteLevel(false),
  ],
  ignoreMerges: false,
};
/** llama.cpp's cut for files written before the field existed. */
const fallback: PreTokenizer = {
  normalizer: null,
  stages: [
    split('[\\p{P}\\$\\+<=>\\^~\\|]+'),
    split(GPT2),
    split('\\p{N}+'),
    split('[0-9][0-9][0-9]'),
    byteLevel(false),
  ],
  ignoreMerges: false,
};

/** By name, as llama.cpp's llama-vocab.cpp assigns them. */
export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  default: fallback,
  ...{ 'gpt-2': gpt2, 'phi-2': gpt2, 'roberta-bpe': gpt2, mpt: gpt2, olmo: gpt2 },
  ...{ smollm: singleDigits, starcoder: singleDigits, refact: singleDigits, 'command-r': singleDigits },
  ...{ codeshell: singleDigits, exaone: singleDigits, 'minerva-7b': singleDigits },
  ...{ 'llama-bpe': llamaBpe, llama3: llamaBpe, 'llama-v3': llamaBpe, 'smaug-bpe': llamaBpe, dbrx: llamaBpe },
  ...{ falcon3: llamaBpe, pixtral: llamaBpe },
  ...{ qwen2, 'deepseek-r1-qwen': qwen2, stablelm2: qwen2, hunyuan: qwen2, megrez: qwen2 },
  tekken,
  'deepseek-coder': deepseekCoder,
};
