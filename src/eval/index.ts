import { FiligreeError } from '../errors.js';
import { compare, estimate } from './statistics.js';
import { TASKS } from './tasks/index.js';
import type { EvalModel, Metric, Progress, RunOptions, Sample, Task } from './types.js';

export { BUILTIN_DATA, DataFolder } from './data.js';
export { rollingParts, windowNlls } from './perplexity.js';
export { type Comparison, compare, type Estimate, estimate } from './statistics.js';
export { TASKS } from './tasks/index.js';
export { joinedRows } from './tasks/text.js';
export type * from './types.js';

/** A task's samples, from which every figure follows. */
export interface TaskSamples {
  task: Task;
  fewshot: number;
  samples: Sample[];
}

/** @throws FiligreeError `usage` naming a task that is not there */
export function tasksNamed(names: readonly string[]): Task[] {
  return names.map((name) => {
    const task = TASKS.find((candidate) => candidate.name === name);
    if (task !== undefined) return task;
    const known = TASKS.map((candidate) => candidate.name).join(', ');
    throw new FiligreeError('usage', `--tasks: there is no task '${name}'; there are ${known}`);
  });
}

/**
 * Finds what is missing before anything long begins.
 * @throws FiligreeError where a task's data is not there, or it would run programs unasked
 */
export function checkTasks(tasks: readonly Task[], { data, allowCode }: RunOptions): void {
  for (const task of tasks) {
    if (task.runsCode && !allowCode)
      throw new FiligreeError(
        'usage',
        `task ${task.name} runs programs that the model wrote; say --allow-code-execution to let it`,
      );
    data.require(task);
  }
}

/** Runs tasks one after the other. @throws FiligreeError as `checkTasks` or a task does */
export async function evaluate(
  model: EvalModel,
  tasks: readonly Task[],
  options: RunOptions,
  onProgress: (task: Task, done: number, total: number) => void = () => {},
): Promise<TaskSamples[]> {
  checkTasks(tasks, options);
  const results: TaskSamples[] = [];
  for (const task of tasks) {
    const progress: Progress = (done, total) => onProgress(task, done, total);
    const samples = await task.run({ ...options, model, onProgress: progress });
    if (samples.length === 0)
      throw new FiligreeError(
        'usage',
        `task ${task.name} has nothing to evaluate: the data or --limit is too small`,
      );
    results.push({ task, fewshot: options.fewshot ?? task.fewshot, samples });
  }
  return results;
}

/** A metric as `--json` shows it. */
export interface MetricResult {
  metric: string;
  value: number;
  stderr: number | null;
  n: number;
}

export interface TaskResult extends MetricResult {
  fewshot: number;
  higher_is_better: boolean;
  /** All metrics of the task, the first one included. */
  metrics: Record<string, { value: number; stderr: number | null }>;
}

export function summarize({ task, fewshot, samples }: TaskSamples): TaskResult {
  const all = task.metrics.map((metric) => [metric.name, estimate(samples, metric)] as const);
  const [name, { value, stderr, n }] = all[0] as (typeof all)[number];
  return {
    metric: name,
    value,
    stderr,
    n,
    fewshot,
    higher_is_better: task.metrics[0].higherIsBetter,
    metrics: Object.fromEntries(
      all.map(([metric, own]) => [metric, { value: own.value, stderr: own.stderr }]),
    ),
  };
}

/** Two models' samples of one task, by its first metric. */
export function comparison(first: TaskSamples, second: TaskSamples) {
  const metric: Metric = first.task.metrics[0];
  const { difference, recovery, recoveryAboveChance } = compare(first.samples, second.samples, metric);
  const shown = ({ value, stderr }: { value: number; stderr: number | null }) => ({ value, stderr });
  return {
    metric: metric.name,
    n: difference.n,
    difference: shown(difference),
    recovery: shown(recovery),
    recovery_above_chance: recoveryAboveChance === null ? null : shown(recoveryAboveChance),
  };
}
