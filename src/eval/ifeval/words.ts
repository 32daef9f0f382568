import { createRequire } from 'node:module';

/** Words, sentences and languages as IFEval's checks count them. */

/** Runs of word characters (NLTK's RegexpTokenizer with \w+). */
export const countWords = (text: string): number => text.match(/[\p{L}\p{N}\p{M}_]+/gu)?.length ?? 0;

/** Behind these a full stop ends no sentence. */
const ABBREVIATIONS =
  /(?:^|[\s("'])(?:[A-Z]|mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|no|vol|fig|u\.s|inc|ltd|co|approx)\.["')\]]*\s*$/i;

/**
 * Sentences. The harness asks NLTK's Punkt model; this is Unicode's segmentation (UAX 29), put together again behind
 * abbreviations and where the next piece begins in lower case.
 */
export function countSentences(text: string): number {
  let count = 0;
  let before = '';
  for (const { segment } of new Intl.Segmenter('en', { granularity: 'sentence' }).segment(text)) {
    // A line's end ends no sentence by itself, as Punkt sees it.
    if (segment.trim() === '') continue;
    const goesOn =
      before !== '' &&
      (!/[.!?]["'”’)\]*_]*\s*$/.test(before) || ABBREVIATIONS.test(before) || /^\s*\p{Ll}/u.test(segment));
    if (!goesOn) count++;
    before = segment;
  }
  return count;
}

/** Words as NLTK's tokenizer separates them from punctuation, as far as their case is concerned. */
export const wordsByCase = (text: string): string[] => text.match(/[^\s.,!?;:"“”()[\]{}<>…`]+/gu) ?? [];

/** Python's isupper and islower: some letter has the case, none the other. */
export const isUpper = (text: string): boolean => /\p{Lu}/u.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text);
export const isLower = (text: string): boolean => /\p{Ll}/u.test(text) && !/[\p{Lu}\p{Lt}]/u.test(text);

let detector: ((text: string) => string) | null = null;

/** ISO 639-1 code of a text's language; empty where there is nothing to tell it by. The harness asks langdetect. */
export function language(text: string): string {
  detector ??= (createRequire(import.meta.url)('tinyld') as { detect(text: string): string }).detect;
  return detector(text);
}
