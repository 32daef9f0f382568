import { execFile, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUILTIN_DATA } from '../../src/eval/data.js';
import { embeddedDefault } from '../../src/model/resolve.js';
import { SHARED } from '../conformance/support.js';
import { TASKS, writeHarnessData } from './harness-data.js';
import { missingProgram, Program, program } from './processes.js';
import { PYTHON } from './router.js';

/**
 * Agreement with lm-evaluation-harness, run through our own /v1/completions on the same documents:
 *
 *   FILIGREE_TEST_PYTHON=venv/bin/python   where `lm-eval[api]==0.4.13` and `transformers` are installed
 *   FILIGREE_LM_EVAL_DATA=folder           TASK.jsonl, in the form of the tasks' own datasets (default: the reference
 *                                          data beside the repository, or the few items of data/eval)
 *   FILIGREE_LM_EVAL_ITEMS=300             of each task; default 25, half a minute
 */
const MODEL = embeddedDefault();
const items = process.env.FILIGREE_LM_EVAL_ITEMS ?? '25';
const REFERENCE = join(SHARED, 'data', 'eval');

function reason(): string | null {
  if (missingProgram !== null) return missingProgram;
  if (MODEL === null) return 'skipped, models/default is not there';
  if (PYTHON === undefined) return 'skipped, FILIGREE_TEST_PYTHON names no Python with lm-eval';
  try {
    execFileSync(PYTHON, ['-c', 'import lm_eval, transformers'], { stdio: 'ignore' });
    return null;
  } catch {
    return `skipped, ${PYTHON} has no lm-eval[api] and transformers`;
  }
}
const why = reason();
const FLAGS = ['--max-model-len', '2048'];

interface Harness {
  /** By metric and filter: `acc,none`. */
  results: Record<string, number>;
  items: { ll: number[]; arguments: [string, string][] }[];
}

interface Ours {
  ll: number[];
  choice: number;
  choice_norm?: number;
}

const largest = (values: number[]) => values.indexOf(Math.max(...values));

describe.skipIf(why)(`eval against lm-evaluation-harness${why ? ` (${why})` : ''}`, () => {
  let theirs: Record<string, Harness>;
  const ours: Record<string, Ours[]> = {};
  let scores: Record<string, { metrics: Record<string, { value: number }> }>;
  const folder = mkdtempSync(join(tmpdir(), 'filigree-harness-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  /** Where both read their documents. */
  function documents(): string {
    if (process.env.FILIGREE_LM_EVAL_DATA) return process.env.FILIGREE_LM_EVAL_DATA;
    if (!existsSync(REFERENCE)) return BUILTIN_DATA;
    const data = join(folder, 'data');
    mkdirSync(data);
    writeHarnessData(REFERENCE, data);
    return data;
  }

  beforeAll(async () => {
    const data = documents();
    const samples = join(folder, 'samples');
    mkdirSync(samples);
    const args = ['--tasks', TASKS.join(), '--data', data, '--limit', items, '--samples', samples, '--json'];
    const { code, stdout, stderr } = await program(['eval', MODEL as string, ...FLAGS, ...args]);
    expect(code, stderr).toBe(0);
    scores = JSON.parse(stdout).tasks;
    for (const name of readdirSync(samples)) {
      const lines = readFileSync(join(samples, name), 'utf8').trim().split('\n');
      ours[name.split('.').at(-2) as string] = lines.map((line) => JSON.parse(line) as Ours);
    }
    const server = new Program([
      'serve',
      MODEL as string,
      '--port',
      '0',
      '--served-model-name',
      'default',
      ...FLAGS,
    ]);
    try {
      const { url } = await server.ready();
      const script = join(import.meta.dirname, 'lm_eval_scores.py');
      const command = [script, url, MODEL as string, data, items, '0', ...TASKS];
      const { stdout } = await promisify(execFile)(PYTHON as string, command, { maxBuffer: 1 << 28 });
      theirs = JSON.parse(stdout);
    } finally {
      server.kill();
      await server.end();
    }
  }, 3_600_000);

  it.each(TASKS)('%s: the same choices on at least 99 % of the items', (task) => {
    const scored = (theirs[task] as Harness).items;
    const own = ours[task] as Ours[];
    expect(own).toHaveLength(scored.length);
    let same = 0;
    for (const [i, { ll, arguments: pairs }] of scored.entries()) {
      const normalized = ll.map((value, c) => value / ([...(pairs[c] as [string, string])[1]].length - 1));
      const { choice, choice_norm: choiceNorm } = own[i] as Ours;
      same += Number(largest(ll) === choice && (choiceNorm ?? largest(normalized)) === largest(normalized));
    }
    console.log(`${task}: ${same} of ${scored.length} choices are the same`);
    expect(same / scored.length).toBeGreaterThanOrEqual(0.99);
  });

  it.each(TASKS)('%s: the same scores', (task) => {
    const { metrics } = scores[task] as (typeof scores)[string];
    expect(Object.keys(metrics)).toContain('acc');
    for (const [metric, { value }] of Object.entries(metrics))
      expect(Math.abs(value - (theirs[task]?.results[`${metric},none`] as number)), metric).toBeLessThan(
        0.01,
      );
  });
});
