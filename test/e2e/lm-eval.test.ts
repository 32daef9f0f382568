import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { MODEL, missing, Program, program } from './processes.js';

/**
 * Agreement with lm-evaluation-harness, run through our own /v1/completions on the same documents:
 *
 *   FILIGREE_LM_EVAL_PYTHON=venv/bin/python   where `lm-eval[api]==0.4.13` and `transformers` are installed
 *   FILIGREE_LM_EVAL_TOKENIZER=folder         the model's tokenizer as Hugging Face has it
 *   FILIGREE_LM_EVAL_DATA=folder              TASK.jsonl, in the form of the tasks' own datasets (default: data/eval)
 *   FILIGREE_LM_EVAL_ITEMS=300
 *
 * Some minutes long, and the harness is large, so it runs only where it is asked for (docs/eval.md).
 */
const python = process.env.FILIGREE_LM_EVAL_PYTHON;
const tokenizer = process.env.FILIGREE_LM_EVAL_TOKENIZER;
const data = process.env.FILIGREE_LM_EVAL_DATA ?? join(import.meta.dirname, '../../data/eval');
const items = process.env.FILIGREE_LM_EVAL_ITEMS ?? '300';
const TASKS = ['hellaswag', 'arc_easy', 'arc_challenge', 'winogrande'];

const why =
  missing ?? (python && tokenizer ? null : 'skipped, FILIGREE_LM_EVAL_PYTHON or _TOKENIZER is not set');
// Both sides keep weights alike; contexts are cut alike.
const FLAGS = ['--weights', 'i8', '--max-model-len', '2048'];

interface Harness {
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

  beforeAll(async () => {
    const samples = mkdtempSync(join(tmpdir(), 'filigree-samples-'));
    const args = ['--tasks', TASKS.join(), '--data', data, '--limit', items, '--samples', samples, '--json'];
    const { code, stderr } = await program(['eval', MODEL as string, ...FLAGS, ...args]);
    expect(code, stderr).toBe(0);
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
      const command = [script, url, tokenizer as string, data, items, '0', ...TASKS];
      const { stdout } = await promisify(execFile)(python as string, command, { maxBuffer: 1 << 28 });
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
});
