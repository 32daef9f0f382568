import type { Task } from '../types.js';
import { humaneval, mbpp } from './code.js';
import { gsm8k } from './gsm8k.js';
import { ifeval } from './ifeval.js';
import { arcChallenge, arcEasy, boolq, hellaswag, mmlu, openbookqa, piqa, winogrande } from './questions.js';
import { cnnDailyMail, dialogsum } from './summaries.js';
import { lambada, wikitext, wikitext2 } from './text.js';

/** Every task, in the order of help and documentation. */
export const TASKS: readonly Task[] = [
  wikitext2,
  wikitext,
  hellaswag,
  arcEasy,
  arcChallenge,
  winogrande,
  mmlu,
  piqa,
  lambada,
  boolq,
  openbookqa,
  gsm8k,
  humaneval,
  mbpp,
  cnnDailyMail,
  dialogsum,
  ifeval,
];
