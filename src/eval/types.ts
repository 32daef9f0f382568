import type { Engine } from '../engine/engine.js';
import type { ChatTemplate, Tokenizer } from '../tokenizer/index.js';
import type { DataFolder } from './data.js';

/** A loaded model as evaluation uses it. */
export interface EvalModel {
  name: string;
  engine: Engine;
  tokenizer: Tokenizer;
  /** Null where the model has none. */
  template: ChatTemplate | null;
  eosTokenIds: number[];
}

/**
 * A figure of a task. Its value is the ratio of two sums over the samples (numerator, weight), so that accuracies,
 * word-level perplexities and instruction-level accuracies are one thing; `exp` raises e to it (perplexity).
 */
export interface Metric {
  name: string;
  scale: 'linear' | 'exp';
  higherIsBetter: boolean;
}

/** One item's part in every metric of its task. */
export interface Sample {
  /** Number of the item in its data, from 0. */
  index: number;
  /** Numerators by metric: 0 or 1 of an accuracy, a negative log-likelihood of a perplexity. */
  values: Record<string, number>;
  /** Weights by metric where they are not 1: words of a page, instructions of a prompt. */
  weights?: Record<string, number>;
  /** Expected value of guessing, for tasks that can be guessed. */
  chance?: number;
  /** What led to it: log-likelihoods, the choice, the answer. Written by `--samples`. */
  detail: Record<string, unknown>;
}

export interface RunOptions {
  data: DataFolder;
  /** Items of each task, the first ones; all when left out. */
  limit?: number | undefined;
  /** Labelled examples in front of each item; left out: the task's own number. */
  fewshot?: number | undefined;
  /** Put every prompt into the model's chat template as one user message. */
  chat: boolean;
  /** Run programs that the model wrote. */
  allowCode: boolean;
  /** Positions of a window of `wikitext2`. Default 2048. */
  window?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** How far a task is: requests answered and to be answered. */
export type Progress = (done: number, total: number) => void;

export interface TaskRun extends RunOptions {
  model: EvalModel;
  onProgress: Progress;
}

export interface Task {
  name: string;
  /** One line for `--help` and the documentation. */
  about: string;
  /** The first one stands for the task. */
  metrics: readonly [Metric, ...Metric[]];
  /** Its data, by preference; JSON lines or text, also compressed. */
  files: readonly string[];
  /** Labelled examples unless asked otherwise: lm-evaluation-harness's default. */
  fewshot: number;
  /** Needs `--allow-code-execution`. */
  runsCode?: boolean;
  /** @throws FiligreeError where the data is missing or malformed, naming file and line */
  run(run: TaskRun): Promise<Sample[]>;
}

export const accuracy = (name: string): Metric => ({ name, scale: 'linear', higherIsBetter: true });
export const perplexity = (name: string): Metric => ({ name, scale: 'exp', higherIsBetter: false });
