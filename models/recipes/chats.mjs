#!/usr/bin/env node
// Ten greedy sample chats of several models side by side through this engine, unedited, as Markdown (npm run build first):
//   node models/recipes/chats.mjs [--tokens 160] "dense=model.gguf" "50 % i4=folder:i4" > chats.md
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const QUESTIONS = [
  'What is the capital of France?',
  'Write a short email to my boss asking for a day off on Friday.',
  'Write a Python function that returns the n-th Fibonacci number.',
  'Tom has 3 apples and buys 4 more. How many apples does he have?',
  'Explain photosynthesis to a ten-year-old.',
  'Give me three tips for sleeping better.',
  'Summarize in one sentence: The city council voted on Tuesday to close the old bridge for repairs. Drivers will ' +
    'have to use the tunnel for at least six months, and buses will be rerouted.',
  'What is the difference between a virus and a bacterium?',
  'Write a four-line poem about the sea.',
  'I feel nervous before a job interview. What should I do?',
];

/** Whether some run of `length` words occurs at least `times` times. */
function loops(text, length = 8, times = 3) {
  const words = text.split(/\s+/);
  const seen = new Map();
  for (let i = 0; i + length <= words.length; i++) {
    const run = words.slice(i, i + length).join(' ');
    seen.set(run, (seen.get(run) ?? 0) + 1);
  }
  return [...seen.values()].some((count) => count >= times);
}

const cli = fileURLToPath(new URL('../../dist/src/main.js', import.meta.url));

function answer(model, weights, question, tokens) {
  const args = ['run', model, question, '--json', '--temperature', '0', '--max-tokens', tokens];
  const result = spawnSync(process.execPath, [cli, ...args, ...(weights ? ['--weights', weights] : [])], {
    encoding: 'utf8',
    input: '',
  });
  if (result.status !== 0) throw new Error(result.stderr);
  const { text, finish_reason } = JSON.parse(result.stdout);
  return { text, ended: finish_reason === 'stop', looping: loops(text) };
}

const { values, positionals } = parseArgs({
  options: { tokens: { type: 'string', default: '160' } },
  allowPositionals: true,
});
const columns = positionals.map((entry) => {
  const [, name, model, weights] = /^(.*?)=(.*?)(?::(i4|i8|bf16|f32))?$/.exec(entry);
  const answers = QUESTIONS.map((question) => answer(model, weights, question, values.tokens));
  process.stderr.write(`${name} answered\n`);
  return { name, answers };
});
for (const { name, answers } of columns) {
  const count = (key) => answers.filter((a) => a[key]).length;
  process.stdout.write(`${name}: ${count('ended')} of 10 end by themselves, ${count('looping')} loop\n\n`);
}
for (const [i, question] of QUESTIONS.entries()) {
  process.stdout.write(`### ${question}\n\n`);
  for (const { name, answers } of columns) {
    const { text, ended, looping } = answers[i];
    const notes = (ended ? '' : ` (cut at ${values.tokens} tokens)`) + (looping ? ' (loops)' : '');
    const quoted = text
      .trim()
      .split('\n')
      .map((line) => `> ${line}`.trimEnd())
      .join('\n');
    process.stdout.write(`**${name}**${notes}\n\n${quoted}\n\n`);
  }
}
