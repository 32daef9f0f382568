import { countSentences, countWords, isLower, isUpper, language, wordsByCase } from './words.js';

/**
 * The checks of IFEval (Zhou et al., 2023, arXiv 2311.07911), one for each instruction id: whether an answer does what it was told.
 * Behaviour and parameter names are those of the published checker, quirks included.
 */
export type Parameters = Record<string, unknown>;
type Check = (answer: string, parameters: Parameters) => boolean;

const number = (parameters: Parameters, name: string): number => {
  const value = parameters[name];
  if (typeof value !== 'number') throw new Error(`'${name}' is missing or no number`);
  return value;
};

const word = (parameters: Parameters, name: string): string => {
  const value = parameters[name];
  if (typeof value !== 'string') throw new Error(`'${name}' is missing or not text`);
  return value;
};

const list = (parameters: Parameters, name: string): string[] => {
  const value = parameters[name];
  if (!Array.isArray(value)) throw new Error(`'${name}' is missing or no list`);
  return value as string[];
};

/** "less than" N, or at least N. */
function related(count: number, threshold: number, relation: string): boolean {
  return relation === 'less than' ? count < threshold : count >= threshold;
}

/** The checker takes words as patterns; what is none is taken as it is spelled. Word ends are Unicode's, as in Python. */
function pattern(source: string, flags: string, wholeWord = false): RegExp {
  const [before, after] = wholeWord ? ['(?<![\\p{L}\\p{N}_])', '(?![\\p{L}\\p{N}_])'] : ['', ''];
  try {
    return new RegExp(before + source + after, `${flags}u`);
  } catch {
    return new RegExp(before + source.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&') + after, `${flags}u`);
  }
}

const occurrences = (text: string, expression: RegExp): number => text.match(expression)?.length ?? 0;

function isLanguage(answer: string, wanted: string): boolean {
  const found = language(answer);
  return found === '' || found === wanted.split('-')[0];
}

const CONSTRAINED = ['My answer is yes.', 'My answer is no.', 'My answer is maybe.'];

function highlights(answer: string): number {
  const some = (matches: RegExpMatchArray | null, strip: (text: string) => string) =>
    (matches ?? []).filter((match) => strip(match).trim() !== '').length;
  return (
    some(answer.match(/\*[^\n*]*\*/g), (text) => text.replace(/^\*+|\*+$/g, '')) +
    some(answer.match(/\*\*[^\n*]*\*\*/g), (text) => text.slice(2, -2))
  );
}

/** Parts between separators; empty ones may only stand at the ends. Null where one stands elsewhere. */
function filledParts(parts: string[]): string[] | null {
  const inner = parts.slice(1, -1);
  if (inner.some((part) => part.trim() === '')) return null;
  return parts.filter((part) => part.trim() !== '');
}

function firstWord(paragraph: string): string {
  const start = (paragraph.split(/\s+/)[0] as string).replace(/^'+/, '').replace(/^"+/, '');
  return (/^[^.,?!'"]*/.exec(start)?.[0] ?? '').toLowerCase();
}

function postscript(answer: string, marker: string): boolean {
  const text = answer.toLowerCase();
  if (marker === 'P.P.S') return /\s*p\.\s?p\.\s?s.*$/m.test(text);
  if (marker === 'P.S.') return /\s*p\.\s?s\..*$/m.test(text);
  return pattern(marker.toLowerCase(), 'm').test(text);
}

function isJson(answer: string): boolean {
  let text = answer.trim();
  for (const fence of ['```json', '```Json', '```JSON', '```'])
    if (text.startsWith(fence)) text = text.slice(fence.length);
  if (text.endsWith('```')) text = text.slice(0, -3);
  try {
    JSON.parse(text.trim());
    return true;
  } catch {
    return false;
  }
}

export const CHECKS: Record<string, Check> = {
  'keywords:existence': (answer, p) =>
    list(p, 'keywords').every((keyword) => pattern(keyword, 'i').test(answer)),
  'keywords:frequency': (answer, p) =>
    related(
      occurrences(answer, pattern(word(p, 'keyword').trim(), 'gi')),
      number(p, 'frequency'),
      word(p, 'relation'),
    ),
  'keywords:forbidden_words': (answer, p) =>
    !list(p, 'forbidden_words').some((forbidden) => pattern(forbidden, 'i', true).test(answer)),
  'keywords:letter_frequency': (answer, p) => {
    const letter = word(p, 'letter').trim().toLowerCase();
    const count = [...answer.toLowerCase()].filter((character) => character === letter).length;
    return related(count, number(p, 'let_frequency'), word(p, 'let_relation'));
  },
  'language:response_language': (answer, p) => isLanguage(answer, word(p, 'language')),
  'length_constraints:number_sentences': (answer, p) =>
    related(countSentences(answer), number(p, 'num_sentences'), word(p, 'relation')),
  'length_constraints:number_paragraphs': (answer, p) =>
    filledParts(answer.split(/\s?\*\*\*\s?/))?.length === number(p, 'num_paragraphs'),
  'length_constraints:number_words': (answer, p) =>
    related(countWords(answer), number(p, 'num_words'), word(p, 'relation')),
  'length_constraints:nth_paragraph_first_word': (answer, p) => {
    const paragraphs = answer.split('\n\n');
    const filled = paragraphs.filter((paragraph) => paragraph.trim() !== '').length;
    const nth = number(p, 'nth_paragraph');
    const paragraph = nth <= filled ? (paragraphs[nth - 1] as string).trim() : '';
    if (paragraph === '') return false;
    return (
      filled === number(p, 'num_paragraphs') && firstWord(paragraph) === word(p, 'first_word').toLowerCase()
    );
  },
  'detectable_content:number_placeholders': (answer, p) =>
    occurrences(answer, /\[.*?\]/g) >= number(p, 'num_placeholders'),
  'detectable_content:postscript': (answer, p) => postscript(answer, word(p, 'postscript_marker').trim()),
  'detectable_format:number_bullet_lists': (answer, p) =>
    occurrences(answer, /^\s*\*[^*].*$/gm) + occurrences(answer, /^\s*-.*$/gm) === number(p, 'num_bullets'),
  'detectable_format:constrained_response': (answer) =>
    CONSTRAINED.some((response) => answer.trim().includes(response)),
  'detectable_format:number_highlighted_sections': (answer, p) =>
    highlights(answer) >= number(p, 'num_highlights'),
  'detectable_format:multiple_sections': (answer, p) => {
    const splitter = word(p, 'section_spliter').trim();
    return answer.split(pattern(`\\s?${splitter}\\s?\\d+\\s?`, '')).length - 1 >= number(p, 'num_sections');
  },
  'detectable_format:json_format': isJson,
  'detectable_format:title': (answer) =>
    (answer.match(/<<[^\n]+>>/g) ?? []).some(
      (title) => title.replace(/^<+/, '').replace(/>+$/, '').trim() !== '',
    ),
  'combination:two_responses': (answer) => {
    const responses = filledParts(answer.split('******'));
    return responses?.length === 2 && responses[0]?.trim() !== responses[1]?.trim();
  },
  'combination:repeat_prompt': (answer, p) =>
    answer.trim().toLowerCase().startsWith(word(p, 'prompt_to_repeat').trim().toLowerCase()),
  'startend:end_checker': (answer, p) =>
    answer
      .trim()
      .replace(/^"+|"+$/g, '')
      .toLowerCase()
      .endsWith(word(p, 'end_phrase').trim().toLowerCase()),
  'startend:quotation': (answer) => /^"[\s\S]*"$/.test(answer.trim()),
  'change_case:capital_word_frequency': (answer, p) =>
    related(
      wordsByCase(answer).filter(isUpper).length,
      number(p, 'capital_frequency'),
      word(p, 'capital_relation'),
    ),
  'change_case:english_capital': (answer) => isUpper(answer) && isLanguage(answer, 'en'),
  'change_case:english_lowercase': (answer) => isLower(answer) && isLanguage(answer, 'en'),
  'punctuation:no_comma': (answer) => !answer.includes(','),
};
