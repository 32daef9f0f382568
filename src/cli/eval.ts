import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Engine } from '../engine/engine.js';
import { FiligreeError } from '../errors.js';
import type { RunOptions, Task, TaskResult, TaskSamples } from '../eval/index.js';
import { loadModel } from './load.js';
import type { ModelOptions } from './options.js';
import { taskProgress } from './progress.js';

export interface EvalOptions extends ModelOptions {
  tasks: string;
  data?: string;
  limit?: number;
  fewshot?: number;
  compare?: string;
  applyChatTemplate?: boolean;
  allowCodeExecution?: boolean;
  window?: number;
  maxNumSeqs: number;
  samples?: string;
  json?: boolean;
}

/** Tokens of a step: large, as nobody waits for a first token. */
const BATCHED_TOKENS = 1024;
/** Sequences of full length that the KV cache holds: items are short, and their contexts are shared. */
const KV_SEQUENCES = 4;

interface Evaluated {
  model: string;
  format: string;
  seconds: number;
  tasks: Record<string, TaskResult>;
  samples: TaskSamples[];
  /** Prompt tokens that the prefix cache served, of those that could have been. */
  prefixHits: number;
}

/** `filigree eval MODEL`: perplexity and tasks through the engine; with `--compare`, of two models on the same items. */
export async function evalCommand(name: string | undefined, options: EvalOptions): Promise<void> {
  const { BUILTIN_DATA, checkTasks, comparison, DataFolder, tasksNamed } = await import('../eval/index.js');
  const tasks = tasksNamed(options.tasks.split(',').filter(Boolean));
  const data = new DataFolder(options.data ?? BUILTIN_DATA);
  const run: RunOptions = {
    data,
    limit: options.limit,
    fewshot: options.fewshot,
    chat: options.applyChatTemplate ?? false,
    allowCode: options.allowCodeExecution ?? false,
    window: options.window,
  };
  checkTasks(tasks, run);
  if (data.builtin)
    process.stderr.write(
      'the few items that come with Filigree: they show that a task runs, not how good a model is. Published sets: --data DIR (docs/eval.md)\n',
    );
  const first = await evaluateModel(name, tasks, run, options);
  const second =
    options.compare === undefined ? null : await evaluateModel(options.compare, tasks, run, options);
  const compared =
    second &&
    Object.fromEntries(
      first.samples.map((own, i) => [own.task.name, comparison(own, second.samples[i] as TaskSamples)]),
    );
  if (options.json) {
    const shown = ({ samples: _, prefixHits: __, ...rest }: Evaluated) => rest;
    const report = {
      ...shown(first),
      data: data.builtin ? 'builtin' : data.path,
      ...(second && { other: shown(second), compare: compared }),
    };
    process.stdout.write(`${JSON.stringify(report)}\n`);
    return;
  }
  process.stdout.write(await table(first, second, compared ?? {}));
}

async function evaluateModel(
  name: string | undefined,
  tasks: Task[],
  run: RunOptions,
  options: EvalOptions,
): Promise<Evaluated> {
  const { evaluate, summarize } = await import('../eval/index.js');
  const loaded = await loadModel(name, options, {
    maxNumSeqs: options.maxNumSeqs,
    maxNumBatchedTokens: BATCHED_TOKENS,
    kvSequences: KV_SEQUENCES,
  });
  const { manifest, runner, tokenizer, template, eosTokenIds } = loaded;
  if (options.applyChatTemplate && template === null) {
    await runner.close();
    throw new FiligreeError('usage', `--apply-chat-template: ${manifest.name} has no chat template`);
  }
  const engine = new Engine(runner, {
    maxNumSeqs: options.maxNumSeqs,
    maxNumBatchedTokens: BATCHED_TOKENS,
    prefixCache: true,
    queueLimit: Number.MAX_SAFE_INTEGER,
    queueTokenLimit: Number.MAX_SAFE_INTEGER,
  });
  const model = { name: manifest.name, engine, tokenizer, template, eosTokenIds };
  const started = performance.now();
  let progress: ReturnType<typeof taskProgress> | null = null;
  let current: Task | null = null;
  try {
    const samples = await evaluate(model, tasks, run, (task, done, total) => {
      if (task !== current) {
        progress?.stop();
        progress = taskProgress(`${manifest.name}: ${task.name}`);
        current = task;
      }
      progress?.update(done, total);
    });
    if (options.samples !== undefined) writeSamples(options.samples, manifest.name, samples);
    const { sparsity, formats } = runner.info;
    const [format] = Object.entries(formats).sort((a, b) => b[1] - a[1])[0] ?? ['unknown'];
    return {
      model: manifest.name,
      format: sparsity < 0.005 ? format : `${format}, ${Math.round(100 * sparsity)} % zeros`,
      seconds: Math.round((performance.now() - started) / 100) / 10,
      tasks: Object.fromEntries(samples.map((own) => [own.task.name, summarize(own)])),
      samples,
      prefixHits: engine.stats().prefixHits,
    };
  } finally {
    (progress as ReturnType<typeof taskProgress> | null)?.stop();
    await engine.close();
  }
}

/** One JSONL file for each task: what every item scored, and why. */
function writeSamples(folder: string, model: string, results: TaskSamples[]): void {
  try {
    mkdirSync(folder, { recursive: true });
    for (const { task, samples } of results) {
      const path = join(folder, `${model.replace(/[^\w.-]/g, '_')}.${task.name}.jsonl`);
      writeFileSync(path, '');
      for (const { index, values, detail } of samples)
        appendFileSync(path, `${JSON.stringify({ index, ...values, ...detail })}\n`);
    }
  } catch (error) {
    throw new FiligreeError('io_error', `--samples ${folder}: ${(error as Error).message}`, { cause: error });
  }
}

type Compared = Record<string, ReturnType<typeof import('../eval/index.js')['comparison']>>;

/** Accuracies in percent, perplexities as they are; ± is one standard error. */
function figure(value: number, stderr: number | null, percent: boolean): string {
  const scale = percent ? 100 : 1;
  const digits = percent ? 1 : 2;
  const error = stderr === null ? '' : ` ± ${(scale * stderr).toFixed(digits)}`;
  return `${(scale * value).toFixed(digits)}${error}`;
}

async function table(first: Evaluated, second: Evaluated | null, compared: Compared): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const head = ['task', 'metric', 'n', 'shots', first.model];
  if (second) head.push(second.model, 'difference', 'recovery', 'above chance');
  const rows = new Table({
    head,
    style: { head: [], border: [] },
    colAligns: head.map((_, i) => (i < 2 ? 'left' : 'right')),
  });
  for (const [name, task] of Object.entries(first.tasks)) {
    const other = second?.tasks[name];
    for (const [i, [metric, own]] of Object.entries(task.metrics).entries()) {
      const percent = !/perplexity|bits/.test(metric);
      const row = [i === 0 ? name : '', metric, i === 0 ? task.n : '', i === 0 ? task.fewshot : ''];
      row.push(figure(own.value, own.stderr, percent));
      if (second && other) {
        const theirs = other.metrics[metric];
        row.push(theirs ? figure(theirs.value, theirs.stderr, percent) : '');
        const c = i === 0 ? compared[name] : undefined;
        row.push(c ? figure(c.difference.value, c.difference.stderr, percent) : '');
        row.push(c ? `${figure(c.recovery.value, c.recovery.stderr, true)} %` : '');
        const above = c?.recovery_above_chance;
        row.push(above ? `${figure(above.value, above.stderr, true)} %` : '');
      }
      rows.push(row);
    }
  }
  const models = [first, ...(second ? [second] : [])].map(
    ({ model, format, seconds }) => `${model}: ${format}, ${seconds} s\n`,
  );
  const note = second
    ? 'recovery is the second over the first (perplexities: first over second); ± is one standard error, paired by item\n'
    : '';
  return `${rows.toString()}\n${models.join('')}${note}`;
}
