import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { countSentences } from '../../../src/eval/ifeval/words.js';
import { porterStem } from '../../../src/eval/porter.js';
import { bestRouge, rouge } from '../../../src/eval/rouge.js';
import { flexibleAnswer, strictAnswer } from '../../../src/eval/tasks/gsm8k.js';
import { follows, looseVariants } from '../../../src/eval/tasks/ifeval.js';

/** Made by the libraries that define them: NLTK, rouge-score, lm-evaluation-harness. */
const fixture = <T>(name: string): T =>
  JSON.parse(readFileSync(join(import.meta.dirname, '../../fixtures/eval', name), 'utf8')) as T;

describe('ROUGE', () => {
  it('stems as NLTK does', () => {
    const wrong = Object.entries(fixture<Record<string, string>>('porter.json')).filter(
      ([word, stem]) => porterStem(word) !== stem,
    );
    expect(wrong).toEqual([]);
  });

  it('scores as rouge-score does', () => {
    for (const { reference, prediction, ...scores } of fixture<Record<string, never>[]>('rouge.json'))
      for (const [name, value] of Object.entries(scores))
        expect(rouge(reference as never, prediction as never)[name as 'rouge1'], prediction).toBeCloseTo(
          value,
          12,
        );
  });

  it('takes the best of several references', () => {
    expect(bestRouge(['nothing alike', 'the cat sat'], 'the cat sat').rouge2).toBe(1);
  });
});

describe('IFEval', () => {
  it("judges as the harness's checks do", () => {
    const wrong = fixture<{ id: string; parameters: object; answer: string; follows: boolean }[]>(
      'ifeval.json',
    ).filter((each) => follows(each.id, each.answer, each.parameters as never) !== each.follows);
    expect(wrong).toEqual([]);
  });

  it('counts sentences', () => {
    const counts: [string, number][] = [
      ['One. Two! Three?', 3],
      ['Dr. Smith met Mrs. Jones at 5.30 p.m. on Monday.', 1],
      ['He said "Stop!" and left. She stayed.', 2],
      ['A line\nthat goes on\n\nand ends. Next.', 2],
      ['No full stop at all', 1],
      ['Pi is 3.14. Really.', 2],
      ['', 0],
    ];
    expect(counts.map(([text]) => [text, countSentences(text)])).toEqual(counts);
  });

  it('is loose about first and last lines and asterisks', () => {
    expect(looseVariants('Sure:\n*text*\nBye')).toContain('text');
    expect(looseVariants('Sure:\n*text*\nBye')).toHaveLength(8);
  });
});

it('GSM8K: the number behind ####, or the last number there is', () => {
  const response = ' She has 3 and $1,234.50 in all.\n#### 1,234.50\n\nQ 7';
  expect([strictAnswer(response), flexibleAnswer(response)]).toEqual(['1,234.50', '7']);
  expect([strictAnswer('none'), flexibleAnswer('none')]).toEqual(['[invalid]', '[invalid]']);
  expect(strictAnswer('#### -5 apples')).toBe('-5');
});
