import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DataFolder, readText } from '../../src/eval/data.js';

/** What llm-foundry keeps of a question, and of WinoGrande's sentence with each of its two names filled in. */
interface Question {
  query: string;
  choices: string[];
  gold: number;
}
interface Sentence {
  context_options: [string, string];
  continuation: string;
  gold: number;
}

const jsonLines = <T>(text: string): T[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as T);

function arc(text: string): object[] {
  return jsonLines<Question>(text).map(({ query, choices, gold }) => {
    const label = choices.map((_, i) => String.fromCharCode(65 + i));
    return {
      question: query.replace(/^Question: /, ''),
      choices: { text: choices, label },
      answerKey: label[gold],
    };
  });
}

function winogrande(text: string): object[] {
  return jsonLines<Sentence>(text).map(({ context_options: [one, two], continuation, gold }) => {
    let same = 0;
    while (same < one.length && one[same] === two[same]) same++;
    const at = one.lastIndexOf(' ', same - 1) + 1;
    return {
      sentence: `${one.slice(0, at)}_ ${continuation}`,
      option1: one.slice(at),
      option2: two.slice(at),
      answer: String(gold + 1),
    };
  });
}

/** Six lines an item: `activity: context`, the answer, four endings. */
function hellaswag(text: string): object[] {
  const lines = text.split('\n');
  return Array.from({ length: Math.floor(lines.length / 6) }, (_, i) => {
    const [context, label, ...endings] = lines.slice(i * 6, i * 6 + 6) as [string, string, ...string[]];
    const colon = context.indexOf(': ');
    return {
      activity_label: context.slice(0, colon),
      ctx_a: context.slice(colon + 2),
      ctx_b: '',
      endings,
      label,
    };
  });
}

const FORMS = {
  hellaswag: ['hellaswag_val_full.txt', hellaswag],
  arc_easy: ['arc_easy.jsonl', arc],
  arc_challenge: ['arc_challenge.jsonl', arc],
  winogrande: ['winogrande.jsonl', winogrande],
} as const;

export const TASKS = Object.keys(FORMS) as (keyof typeof FORMS)[];

/** Writes TASK.jsonl, in the form of each task's own dataset, out of the reference data beside the repository. */
export function writeHarnessData(from: string, to: string): void {
  const folder = new DataFolder(from);
  for (const task of TASKS) {
    const [name, convert] = FORMS[task];
    const lines = convert(readText(folder.require({ name: task, files: [name] })));
    writeFileSync(join(to, `${task}.jsonl`), lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }
}
