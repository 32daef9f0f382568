import { porterStem } from './porter.js';

/**
 * ROUGE (Lin, 2004) as PyPI's rouge-score computes it: lower-cased runs of letters and digits, stemmed where longer than
 * three characters; F1 of n-gram overlap, and of the longest common subsequence.
 */
export interface RougeScores {
  rouge1: number;
  rouge2: number;
  rougeL: number;
}

/** The tokens that are compared. */
export function rougeTokens(text: string): string[] {
  const words = text
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, ' ')
    .split(/\s+/);
  return words
    .map((word) => (word.length > 3 ? porterStem(word) : word))
    .filter((word) => /^[a-z0-9]+$/.test(word));
}

export function rouge(reference: string, prediction: string): RougeScores {
  const target = rougeTokens(reference);
  const predicted = rougeTokens(prediction);
  return {
    rouge1: ngramF1(target, predicted, 1),
    rouge2: ngramF1(target, predicted, 2),
    rougeL:
      target.length === 0 || predicted.length === 0
        ? 0
        : f1(commonSubsequence(target, predicted), predicted.length, target.length),
  };
}

/** The best of several references, each figure by itself. */
export function bestRouge(references: readonly string[], prediction: string): RougeScores {
  const all = references.map((reference) => rouge(reference, prediction));
  const best = (name: keyof RougeScores) => Math.max(...all.map((scores) => scores[name]));
  return { rouge1: best('rouge1'), rouge2: best('rouge2'), rougeL: best('rougeL') };
}

function f1(overlap: number, predicted: number, target: number): number {
  const precision = overlap / Math.max(predicted, 1);
  const recall = overlap / Math.max(target, 1);
  return precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0;
}

function ngrams(tokens: string[], n: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i + n <= tokens.length; i++) {
    const key = tokens.slice(i, i + n).join(' ');
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function ngramF1(target: string[], predicted: string[], n: number): number {
  const wanted = ngrams(target, n);
  let overlap = 0;
  for (const [key, count] of ngrams(predicted, n)) overlap += Math.min(count, wanted.get(key) ?? 0);
  return f1(overlap, Math.max(0, predicted.length - n + 1), Math.max(0, target.length - n + 1));
}

/** Length of the longest common subsequence, in one row of memory. */
function commonSubsequence(a: string[], b: string[]): number {
  const row = new Uint32Array(b.length + 1);
  for (const word of a) {
    let diagonal = 0;
    for (let j = 1; j <= b.length; j++) {
      const above = row[j] as number;
      row[j] = word === b[j - 1] ? diagonal + 1 : Math.max(above, row[j - 1] as number);
      diagonal = above;
    }
  }
  return row[b.length] as number;
}
