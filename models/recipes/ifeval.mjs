#!/usr/bin/env node
// Strict IFEval accuracy of the answers that tasks.py wrote, by the checks of `filigree eval` (npm run build first):
//   node models/recipes/ifeval.mjs ifeval.jsonl answers-ifeval-MODEL.json ...
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { follows } from '../../dist/src/eval/tasks/ifeval.js';

const [data, ...files] = process.argv.slice(2);
const rows = readFileSync(data, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));

function mean(flags) {
  const p = flags.filter(Boolean).length / flags.length;
  return { value: 100 * p, stderr: 100 * Math.sqrt((p * (1 - p)) / flags.length), n: flags.length };
}

for (const file of files) {
  const answers = JSON.parse(readFileSync(file, 'utf8'));
  const strict = rows.map((row, i) =>
    row.instruction_id_list.map((id, k) => follows(id, answers[i], row.kwargs[k] ?? {})),
  );
  const result = {
    prompt: mean(strict.map((flags) => flags.every(Boolean))),
    instruction: mean(strict.flat()),
  };
  process.stdout.write(
    `${JSON.stringify({ task: 'ifeval', model: basename(file, '.json').split('-').at(-1), ...result })}\n`,
  );
}
