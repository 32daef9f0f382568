import { availableParallelism } from 'node:os';
import { FiligreeError } from '../../errors.js';
import { type Raw, readDocs, text, texts } from '../data.js';
import { tooFew } from '../fewshot.js';
import { answers } from '../generate.js';
import { runSandboxed } from '../sandbox.js';
import { pooled } from '../score.js';
import { accuracy, type Sample, type Task, type TaskRun } from '../types.js';

/** Programs at once. */
const WIDTH = Math.min(4, availableParallelism());

async function judged(
  run: TaskRun,
  ids: string[],
  responses: string[],
  programs: string[],
): Promise<Sample[]> {
  const verdicts = await pooled(programs, WIDTH, (program) => {
    run.signal?.throwIfAborted();
    return runSandboxed(program);
  });
  return verdicts.map(({ passed, reason }, index) => ({
    index,
    values: { 'pass@1': Number(passed) },
    detail: { id: ids[index], passed, reason, response: responses[index] },
  }));
}

/** Functions completed from their docstrings; greedy, one answer each. As the harness's `humaneval`. */
export const humaneval: Task = {
  name: 'humaneval',
  about: 'Python functions completed from their docstrings; right where the tests pass',
  metrics: [accuracy('pass@1')],
  files: ['humaneval.jsonl', 'HumanEval.jsonl'],
  fewshot: 0,
  runsCode: true,
  async run(run) {
    const path = run.data.require(humaneval);
    const problems = readDocs(
      path,
      (raw) => ({
        id: text(raw, 'task_id'),
        prompt: text(raw, 'prompt'),
        test: `${text(raw, 'test')}\ncheck(${text(raw, 'entry_point')})`,
      }),
      run.limit,
    );
    const prompts = problems.map(({ prompt }) => prompt);
    const until = ['\nclass', '\ndef', '\n#', '\nif', '\nprint'];
    const responses = await answers(run, prompts, { until, maxTokens: 1024 });
    const programs = problems.map(
      ({ prompt, test }, i) => `${prompt}${body(responses[i] as string, run.chat)}\n${test}`,
    );
    const ids = problems.map(({ id }) => id);
    return judged(run, ids, responses, programs);
  },
};

/** In a conversation the code stands in a fence; as a plain continuation it is all there is. */
function body(response: string, chat: boolean): string {
  if (!chat) return response;
  return /```(?:\w+)?\n?([\s\S]*?)(?:\n?```|$)/.exec(response)?.[1] ?? response;
}

interface MbppProblem {
  id: number;
  text: string;
  code: string;
  tests: string[];
  setup: string;
}

const parseMbpp = (raw: Raw): MbppProblem => ({
  id: Number(raw.task_id),
  text: text(raw, 'text', 'prompt'),
  code: text(raw, 'code'),
  tests: texts(raw, 'test_list'),
  setup: typeof raw.test_setup_code === 'string' ? raw.test_setup_code : '',
});

/** Problems 11 to 510 are MBPP's test split, 2 to 4 its usual examples. */
const TEST = [11, 510] as const;
const EXAMPLES = [2, 3, 4];

const mbppPrompt = (problem: MbppProblem) =>
  `You are an expert Python programmer, and here is your task: ${problem.text} Your code should pass these tests:\n\n` +
  `${problem.tests.slice(0, 3).join('\n')}\n[BEGIN]\n`;

/** Small functions from a sentence and three tests; 3 worked examples. As the harness's `mbpp`. */
export const mbpp: Task = {
  name: 'mbpp',
  about: 'small Python functions from a sentence and three tests; 3 worked examples',
  metrics: [accuracy('pass@1')],
  files: ['mbpp.jsonl'],
  fewshot: 3,
  runsCode: true,
  async run(run) {
    const all = readDocs(run.data.require(mbpp), parseMbpp);
    const problems = all.filter(({ id }) => id >= TEST[0] && id <= TEST[1]).slice(0, run.limit);
    if (problems.length === 0)
      throw new FiligreeError(
        'io_error',
        `task mbpp: no problem has a task_id from ${TEST[0]} to ${TEST[1]}, the test split`,
      );
    const shots = run.fewshot ?? mbpp.fewshot;
    const examples = all.filter(({ id }) => EXAMPLES.includes(id));
    if (shots > examples.length) throw tooFew('mbpp', shots, examples.length);
    const head = examples
      .slice(0, shots)
      .map((example) => `${mbppPrompt(example)}${example.code}\n[DONE]\n\n`)
      .join('');
    const prompts = problems.map((problem) => head + mbppPrompt(problem));
    const responses = await answers(run, prompts, { until: ['[DONE]'], maxTokens: 256 });
    const programs = problems.map(
      ({ setup, tests }, i) => `${body(responses[i] as string, run.chat)}\n${setup}\n${tests.join('\n')}`,
    );
    return judged(
      run,
      problems.map(({ id }) => String(id)),
      responses,
      programs,
    );
  },
};
