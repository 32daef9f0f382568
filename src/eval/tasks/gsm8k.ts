import { type Raw, readDocs, text } from '../data.js';
import { FewShotSampler } from '../fewshot.js';
import { answers } from '../generate.js';
import { accuracy, type Task } from '../types.js';

interface Problem {
  question: string;
  answer: string;
}

const parse = (raw: Raw): Problem => ({ question: text(raw, 'question'), answer: text(raw, 'answer') });

const INVALID = '[invalid]';

/** The harness's filter `strict-match`: the number behind the first "#### ". */
export function strictAnswer(response: string): string {
  return /#### (-?[0-9.,]+)/.exec(response)?.[1]?.trim() ?? INVALID;
}

/** The harness's filter `flexible-extract`: the last thing that looks like a number. */
export function flexibleAnswer(response: string): string {
  return [...response.matchAll(/-?[$0-9.,]{2,}|-?[0-9]+/g)].at(-1)?.[0].trim() ?? INVALID;
}

/** What the harness takes off both sides before it compares them. */
function normalized(answer: string): string {
  return answer
    .replaceAll(',', '')
    .replaceAll('$', '')
    .replace(/[\s\S]*#### /g, '')
    .replace(/\.$/, '')
    .toLowerCase();
}

/** Whole-number word problems; the answer must be exact. As the harness's `gsm8k`. */
export const gsm8k: Task = {
  name: 'gsm8k',
  about: 'word problems with a number as the answer, which must be exact; 5 worked examples',
  metrics: [accuracy('exact_match'), accuracy('flexible_match')],
  files: ['gsm8k.jsonl', 'gsm8k_test.jsonl'],
  fewshot: 5,
  async run(run) {
    const { data, limit } = run;
    const path = data.require(gsm8k);
    const examples = data.find('gsm8k_train.jsonl');
    const problems = readDocs(path, parse);
    const evaluated = problems.slice(0, limit);
    const sampler = new FewShotSampler('gsm8k', examples ? readDocs(examples, parse) : problems, !examples);
    const prompts = evaluated.map((problem) => {
      const shots = sampler.draw(run.fewshot ?? gsm8k.fewshot, problem);
      const labelled = shots.map(({ question, answer }) => `Question: ${question}\nAnswer: ${answer}\n\n`);
      return `${labelled.join('')}Question: ${problem.question}\nAnswer:`;
    });
    const responses = await answers(run, prompts, {
      until: ['Question:', '</s>', '<|im_end|>'],
      maxTokens: 256,
    });
    return evaluated.map(({ answer }, index) => {
      const response = responses[index] as string;
      const gold = normalized(answer);
      const [strict, flexible] = [strictAnswer(response), flexibleAnswer(response)];
      return {
        index,
        values: {
          exact_match: Number(normalized(strict) === gold),
          flexible_match: Number(normalized(flexible) === gold),
        },
        detail: { gold, strict, flexible, response },
      };
    });
  },
};
