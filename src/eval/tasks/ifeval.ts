import { type Raw, readDocs, text, texts } from '../data.js';
import { answers } from '../generate.js';
import { CHECKS, type Parameters } from '../ifeval/checks.js';
import { accuracy, type Task } from '../types.js';

interface Instructed {
  key: unknown;
  prompt: string;
  ids: string[];
  parameters: Parameters[];
}

function parse(raw: Raw): Instructed {
  const ids = texts(raw, 'instruction_id_list');
  const parameters = raw.kwargs;
  if (!Array.isArray(parameters) || parameters.length !== ids.length)
    throw new Error("'kwargs' is missing or not one for each instruction");
  const unknown = ids.find((id) => !Object.hasOwn(CHECKS, id));
  if (unknown !== undefined) throw new Error(`there is no check for the instruction '${unknown}'`);
  return { key: raw.key, prompt: text(raw, 'prompt'), ids, parameters: parameters as Parameters[] };
}

/** Whether an answer follows an instruction. An empty one follows none. */
export function follows(id: string, answer: string, parameters: Parameters): boolean {
  return answer.trim() !== '' && (CHECKS[id] as (typeof CHECKS)[string])(answer, parameters ?? {});
}

/** Variants that the loose score accepts: without first or last line, without asterisks. */
export function looseVariants(answer: string): string[] {
  const lines = answer.split('\n');
  const cut = [lines, lines.slice(1), lines.slice(0, -1), lines.slice(1, -1)].map((part, i) =>
    i === 0 ? answer : part.join('\n').trim(),
  );
  return [...cut, ...cut.map((part) => part.replaceAll('*', ''))];
}

/** Instructions that a program can check. As the harness's `ifeval`; for chat models use --apply-chat-template. */
export const ifeval: Task = {
  name: 'ifeval',
  about: 'instructions that a program can check; strict and loose, by prompt and by instruction',
  metrics: [
    accuracy('prompt_level_strict_acc'),
    accuracy('inst_level_strict_acc'),
    accuracy('prompt_level_loose_acc'),
    accuracy('inst_level_loose_acc'),
  ],
  files: ['ifeval.jsonl'],
  fewshot: 0,
  async run(run) {
    const docs = readDocs(run.data.require(ifeval), parse, run.limit);
    const prompts = docs.map(({ prompt }) => prompt);
    const responses = await answers(run, prompts, { until: [], maxTokens: 1280 });
    return docs.map(({ key, ids, parameters }, index) => {
      const response = responses[index] as string;
      const variants = looseVariants(response);
      const strict = ids.map((id, i) => follows(id, response, parameters[i] as Parameters));
      const loose = ids.map((id, i) => variants.some((v) => follows(id, v, parameters[i] as Parameters)));
      const count = (flags: boolean[]) => flags.filter(Boolean).length;
      return {
        index,
        values: {
          prompt_level_strict_acc: Number(strict.every(Boolean)),
          inst_level_strict_acc: count(strict),
          prompt_level_loose_acc: Number(loose.every(Boolean)),
          inst_level_loose_acc: count(loose),
        },
        weights: { inst_level_strict_acc: ids.length, inst_level_loose_acc: ids.length },
        detail: { key, ids, strict, loose, response },
      };
    });
  },
};
