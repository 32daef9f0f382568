import { type DataFolder, type Raw, readDocs } from '../data.js';
import { FewShotSampler, tooFew } from '../fewshot.js';
import { type Continuation, encodePair, type Likelihood, likelihoods } from '../score.js';
import { accuracy, type EvalModel, type Metric, type Sample, type Task, type TaskRun } from '../types.js';

/**
 * A question with answers to choose from. Mostly one prompt and several answers; where the answers differ in the middle
 * of a sentence (WinoGrande) several prompts and one ending.
 */
export interface Question {
  prompts: string[];
  answers: string[];
  gold: number;
  /** Stands in front of everything: what the questions are about. */
  description?: string;
  /** Few-shot examples come from questions of the same group. */
  group?: string;
}

export interface ChoiceSpec {
  name: string;
  about: string;
  /** Data files by preference; JSONL unless `load` says otherwise. */
  files: string[];
  parse: (raw: Raw) => Question;
  /** For files that are no JSONL. */
  load?: (path: string, limit: number) => Question[] | null;
  /** Files with examples for `--fewshot`; the evaluated questions themselves where there are none. */
  examples?: string[];
  /** The dataset has no test split: its validation split is evaluated. */
  validation?: boolean;
  /** Take the first examples instead of drawing them. */
  firstExamples?: boolean;
  /** Also score per character (the harness's `acc_norm`), and let that stand for the task. */
  normalized: boolean;
}

/** A multiple-choice task by log-likelihood, as lm-evaluation-harness's `output_type: multiple_choice`. */
export function choiceTask(spec: ChoiceSpec): Task {
  const metrics: [Metric, ...Metric[]] = spec.normalized
    ? [accuracy('acc_norm'), accuracy('acc')]
    : [accuracy('acc')];
  return {
    name: spec.name,
    about: spec.about,
    files: spec.files,
    metrics,
    fewshot: 0,
    run: (run) => runChoices(spec, run),
  };
}

async function runChoices(spec: ChoiceSpec, run: TaskRun): Promise<Sample[]> {
  const { model } = run;
  const { questions, pool, own } = loadQuestions(spec, run);
  const examplesOf = exampleSource(spec, pool, own, run.fewshot ?? 0);
  const asked = questions.map((question) => requestsOf(model, question, examplesOf(question), run.chat));
  const flat = asked.flat().map((request) => encodePair(model, request));
  const scores = await likelihoods(model, flat, run);
  let at = 0;
  return questions.map((question, index) => {
    const own = scores.slice(at, at + (asked[index] as Continuation[]).length);
    at += own.length;
    return sampleOf(spec, question, index, own);
  });
}

function loadQuestions(spec: ChoiceSpec, run: TaskRun) {
  const { data, limit = Number.POSITIVE_INFINITY, fewshot = 0 } = run;
  const read = (path: string, most: number) => spec.load?.(path, most) ?? readDocs(path, spec.parse, most);
  const path = data.require(spec);
  const examples = fewshot > 0 ? examplesPath(spec, data) : null;
  if (examples !== null)
    return { questions: read(path, limit), pool: read(examples, Number.POSITIVE_INFINITY), own: false };
  const all = read(path, fewshot > 0 ? Number.POSITIVE_INFINITY : limit);
  return { questions: all.slice(0, limit), pool: all, own: true };
}

const examplesPath = (spec: ChoiceSpec, data: DataFolder) =>
  data.find(...(spec.examples ?? [`${spec.name}_train.jsonl`]));

/** What gives each question its labelled examples, called in the order of the questions. */
function exampleSource(spec: ChoiceSpec, pool: Question[], own: boolean, count: number) {
  if (count === 0) return () => [];
  if (!spec.firstExamples) {
    const sampler = new FewShotSampler(spec.name, pool, own || (spec.validation ?? false));
    return (question: Question) => sampler.draw(count, question);
  }
  return (question: Question) => {
    const group = pool.filter((other) => other.group === question.group && other !== question);
    if (group.length < count) throw tooFew(spec.name, count, group.length);
    return group.slice(0, count);
  };
}

/** Every answer of a question as a continuation; a space goes in between, which a chat template has of its own. */
function requestsOf(
  model: EvalModel,
  question: Question,
  examples: Question[],
  chat: boolean,
): Continuation[] {
  const { prompts, answers } = question;
  const head = (question.description ?? '') + examples.map((example) => `${labelled(example)}\n\n`).join('');
  const count = Math.max(prompts.length, answers.length);
  const space = chat ? '' : ' ';
  return Array.from({ length: count }, (_, i) => ({
    context: prompted(model, head + (prompts.length > 1 ? prompts[i] : prompts[0]), chat),
    continuation: space + (answers.length > 1 ? answers[i] : answers[0]),
  }));
}

function labelled({ prompts, answers, gold }: Question): string {
  return `${prompts[prompts.length > 1 ? gold : 0]} ${answers[answers.length > 1 ? gold : 0]}`;
}

/** A prompt as it is, or as the user's message of a conversation. */
export function prompted({ template }: EvalModel, prompt: string, chat: boolean): string {
  if (!chat || template === null) return prompt;
  return template.render([{ role: 'user', content: prompt }], { addGenerationPrompt: true });
}

function sampleOf(spec: ChoiceSpec, question: Question, index: number, scores: Likelihood[]): Sample {
  const lls = scores.map(({ logprob }) => logprob);
  const choice = largest(lls);
  const values: Record<string, number> = { acc: Number(choice === question.gold) };
  const detail: Record<string, unknown> = { gold: question.gold, ll: lls, choice };
  if (spec.normalized) {
    // Python's len: characters are code points.
    const perCharacter = lls.map((ll, i) => ll / [...(question.answers[i] as string)].length);
    detail.choice_norm = largest(perCharacter);
    values.acc_norm = Number(detail.choice_norm === question.gold);
  }
  return { index, values, chance: 1 / scores.length, detail };
}

/** Index of the largest value, the first of equals (numpy's argmax). */
function largest(values: number[]): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
