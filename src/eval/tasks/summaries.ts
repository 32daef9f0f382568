import { type Raw, readDocs, text } from '../data.js';
import { answers } from '../generate.js';
import { bestRouge } from '../rouge.js';
import { accuracy, type Metric, type Task } from '../types.js';

interface Original {
  prompt: string;
  references: string[];
}

const METRICS: [Metric, ...Metric[]] = [accuracy('rougeL'), accuracy('rouge1'), accuracy('rouge2')];

/** The harness compares summaries with runs of white space as one space. */
const squeezed = (line: string) => line.replace(/\s+/g, ' ').trim();

function summaryTask(
  name: string,
  about: string,
  files: string[],
  maxTokens: number,
  parse: (raw: Raw) => Original,
): Task {
  return {
    name,
    about,
    metrics: METRICS,
    files,
    fewshot: 0,
    async run(run) {
      const originals = readDocs(run.data.require({ name, files }), parse, run.limit);
      const prompts = originals.map(({ prompt }) => prompt);
      const summaries = await answers(run, prompts, { until: ['\n\n'], maxTokens });
      return originals.map(({ references }, index) => {
        const summary = squeezed(summaries[index] as string);
        const values = bestRouge(references.map(squeezed), summary);
        return { index, values: { ...values }, detail: { summary, references } };
      });
    },
  };
}

/** As the harness's `cnn_dailymail_abisee`, without BERTScore. */
export const cnnDailyMail = summaryTask(
  'cnn_dailymail',
  'news articles summed up; ROUGE against the highlights',
  ['cnn_dailymail.jsonl', 'cnndm_summeval.jsonl', 'cnndm_realsumm.jsonl'],
  128,
  (raw) => ({
    prompt: `Summarize the following article:\n\n${text(raw, 'article', 'src')}\n\nSummary:`,
    references: [text(raw, 'highlights', 'ref')],
  }),
);

/** Not among the harness's tasks: its CNN/DailyMail prompt, with the best of the references where there are three. */
export const dialogsum = summaryTask(
  'dialogsum',
  'conversations summed up; ROUGE against the best reference',
  ['dialogsum.jsonl', 'dialogsum_test.jsonl'],
  128,
  (raw) => ({
    prompt: `Summarize the following dialogue:\n\n${text(raw, 'dialogue')}\n\nSummary:`,
    references: ['summary', 'summary1', 'summary2', 'summary3']
      .filter((name) => typeof raw[name] === 'string')
      .map((name) => text(raw, name)),
  }),
);
