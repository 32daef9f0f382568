import { label, type Raw, readText, text, texts } from '../data.js';
import { choiceTask, type Question } from './choice.js';

/**
 * The multiple-choice tasks: what lm-evaluation-harness 0.4.13 makes of each dataset's own documents, and the same from
 * the files that are handed around (llm-foundry's ARC and WinoGrande, the text form of HellaSwag).
 */

/** The harness's clean-up of WikiHow's markup. */
export function preprocessHellaSwag(line: string): string {
  return line
    .trim()
    .replaceAll(' [title]', '. ')
    .replace(/\[.*?\]/g, '')
    .replaceAll('  ', ' ');
}

/** Python's str.capitalize: the first character upper, the others lower. */
function capitalize(line: string): string {
  const [first = '', ...rest] = line;
  return first.toUpperCase() + rest.join('').toLowerCase();
}

function hellaSwagQuestion(context: string, endings: string[], gold: number): Question {
  return { prompts: [preprocessHellaSwag(context)], answers: endings.map(preprocessHellaSwag), gold };
}

/** Six lines an item: "activity: context", the number of the right ending, four endings. */
function readHellaSwagText(path: string, limit: number): Question[] | null {
  if (!/\.txt(\.gz|\.bz2)?$/.test(path)) return null;
  const lines = readText(path).split('\n');
  const questions: Question[] = [];
  for (let at = 0; at + 6 <= lines.length && questions.length < limit; at += 6) {
    const [context, gold, ...endings] = lines.slice(at, at + 6) as [string, string, ...string[]];
    questions.push(hellaSwagQuestion(context, endings, label({ label: gold }, 'label', 4)));
  }
  return questions;
}

export const hellaswag = choiceTask({
  name: 'hellaswag',
  about: 'which ending goes on with a scene (4 choices)',
  files: ['hellaswag.jsonl', 'hellaswag_val_full.txt'],
  validation: true,
  load: readHellaSwagText,
  parse: (raw) =>
    hellaSwagQuestion(
      `${text(raw, 'activity_label')}: ${text(raw, 'ctx_a')} ${capitalize(text(raw, 'ctx_b'))}`,
      texts(raw, 'endings'),
      label(raw, 'label', texts(raw, 'endings').length),
    ),
  normalized: true,
});

/** `choices` as {text, label} with the letter of the right one, as ARC and OpenBookQA have it. */
function lettered(raw: Raw): { answers: string[]; gold: number } {
  const choices = raw.choices as Raw | undefined;
  const answers = texts(choices ?? {}, 'text');
  const gold = texts(choices ?? {}, 'label').indexOf(text(raw, 'answerKey').trimStart());
  if (gold < 0) throw new Error("'answerKey' is none of the choices' labels");
  return { answers, gold };
}

function arcQuestion(raw: Raw): Question {
  // llm-foundry's form has the prompt made up already.
  if (typeof raw.query === 'string') {
    const answers = texts(raw, 'choices');
    return { prompts: [`${raw.query}\nAnswer:`], answers, gold: label(raw, 'gold', answers.length) };
  }
  return { prompts: [`Question: ${text(raw, 'question')}\nAnswer:`], ...lettered(raw) };
}

const arc = (name: string, about: string) =>
  choiceTask({ name, about, files: [`${name}.jsonl`], parse: arcQuestion, normalized: true });

export const arcEasy = arc('arc_easy', 'school science, the easier questions (mostly 4 choices)');
export const arcChallenge = arc('arc_challenge', 'school science, the harder questions (mostly 4 choices)');

function winoGrandeQuestion(raw: Raw): Question {
  if (Array.isArray(raw.context_options)) {
    const prompts = texts(raw, 'context_options');
    return { prompts, answers: [text(raw, 'continuation')], gold: label(raw, 'gold', prompts.length) };
  }
  const sentence = text(raw, 'sentence');
  const gap = sentence.indexOf('_');
  if (gap < 0) throw new Error("'sentence' has no gap (_)");
  const before = sentence.slice(0, gap);
  return {
    prompts: [before + text(raw, 'option1'), before + text(raw, 'option2')],
    answers: [sentence.slice(gap + 1).trim()],
    gold: label(raw, 'answer', 3) - 1,
  };
}

export const winogrande = choiceTask({
  name: 'winogrande',
  about: 'whom a pronoun means; the rest of the sentence is scored after either name (2 choices)',
  files: ['winogrande.jsonl'],
  validation: true,
  parse: winoGrandeQuestion,
  normalized: false,
});

export const piqa = choiceTask({
  name: 'piqa',
  about: 'which of two ways reaches a practical goal (2 choices)',
  files: ['piqa.jsonl'],
  validation: true,
  parse: (raw) => ({
    prompts: [`Question: ${text(raw, 'goal')}\nAnswer:`],
    answers: [text(raw, 'sol1'), text(raw, 'sol2')],
    gold: label(raw, 'label', 2),
  }),
  normalized: true,
});

export const openbookqa = choiceTask({
  name: 'openbookqa',
  about: 'elementary science that needs a fact not given (4 choices)',
  files: ['openbookqa.jsonl'],
  parse: (raw) => ({ prompts: [text(raw, 'question_stem')], ...lettered(raw) }),
  normalized: true,
});

export const boolq = choiceTask({
  name: 'boolq',
  about: 'yes or no, about a passage (2 choices)',
  files: ['boolq.jsonl'],
  validation: true,
  parse: (raw) => ({
    prompts: [`${text(raw, 'passage')}\nQuestion: ${text(raw, 'question')}?\nAnswer:`],
    answers: ['no', 'yes'],
    gold: label(raw, 'label' in raw ? 'label' : 'answer', 2),
  }),
  normalized: false,
});

export const mmlu = choiceTask({
  name: 'mmlu',
  about: 'exam questions of 57 subjects; few-shot examples of the same subject (4 choices)',
  files: ['mmlu.jsonl', 'mmlu_test.jsonl'],
  examples: ['mmlu_dev.jsonl'],
  firstExamples: true,
  parse: (raw) => {
    const subject = text(raw, 'subject');
    const choices = texts(raw, 'choices');
    const options = choices.map((choice, i) => `${'ABCD'[i]}. ${choice}`).join('\n');
    return {
      description: `The following are multiple choice questions (with answers) about ${subject.replaceAll('_', ' ')}.\n\n`,
      group: subject,
      prompts: [`${text(raw, 'question').trim()}\n${options}\nAnswer:`],
      answers: ['A', 'B', 'C', 'D'].slice(0, choices.length),
      gold: label(raw, 'answer', choices.length),
    };
  },
  normalized: false,
});
