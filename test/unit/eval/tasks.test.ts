import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import {
  BUILTIN_DATA,
  DataFolder,
  evaluate,
  type RunOptions,
  summarize,
  TASKS,
  tasksNamed,
} from '../../../src/eval/index.js';
import { preprocessHellaSwag } from '../../../src/eval/tasks/questions.js';
import { detokenize, joinedRows, pagesOf } from '../../../src/eval/tasks/text.js';
import { fakeModel } from './fixture.js';

/** A folder with these files. */
function folder(files: Record<string, string | Buffer>): DataFolder {
  const path = mkdtempSync(join(tmpdir(), 'filigree-test-'));
  mkdirSync(path, { recursive: true });
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content);
  return new DataFolder(path);
}

const lines = (...docs: object[]) => docs.map((doc) => JSON.stringify(doc)).join('\n');
const options = (data: DataFolder, more: Partial<RunOptions> = {}): RunOptions => ({
  data,
  chat: false,
  allowCode: false,
  ...more,
});

/** Texts whose likelihood a task asks for, as [context, continuation]. */
async function asked(task: string, data: DataFolder, more: Partial<RunOptions> = {}): Promise<string[]> {
  const { model } = fakeModel({ maxModelLen: 4096, numBlocks: 4096 });
  const seen: string[] = [];
  const { submit } = model.engine;
  model.engine.submit = (request) => {
    const from = request.sampling.promptLogprobsFrom ?? 1;
    const text = (ids: Int32Array) => model.tokenizer.decode(ids, { continuation: true });
    seen.push(`${text(request.prompt.subarray(0, from))}|${text(request.prompt.subarray(from))}`);
    return submit.call(model.engine, request);
  };
  await evaluate(model, tasksNamed([task]), options(data, more));
  return seen;
}

describe('the questions', () => {
  const arc = {
    question: 'What is hot?',
    choices: { text: ['ice', 'fire'], label: ['1', '2'] },
    answerKey: '2',
  };

  it('of ARC, from its own documents and from llm-foundry', async () => {
    const wanted = ['Question: What is hot?\nAnswer:| ice', 'Question: What is hot?\nAnswer:| fire'];
    expect(await asked('arc_easy', folder({ 'arc_easy.jsonl': lines(arc) }))).toEqual(wanted);
    const other = { query: 'Question: What is hot?', choices: ['ice', 'fire'], gold: 1 };
    expect(await asked('arc_easy', folder({ 'arc_easy.jsonl.gz': gzipSync(lines(other)) }))).toEqual(wanted);
  });

  it('of HellaSwag, cleaned, from its documents and from the text form', async () => {
    const doc = {
      activity_label: 'Tea',
      ctx_a: 'Water boils.',
      ctx_b: 'the Man',
      endings: [' pours [substeps] it.', 'b', 'c', 'd'],
      label: '1',
    };
    const [first] = await asked('hellaswag', folder({ 'hellaswag.jsonl': lines(doc) }));
    expect(first).toBe('Tea: Water boils. The man| pours it.');
    const text = 'Tea: Water boils. the man\n1\npours it.\nb\nc\nd\n';
    const [second] = await asked('hellaswag', folder({ 'hellaswag_val_full.txt': text }));
    expect(second).toBe('Tea: Water boils. the man| pours it.');
    expect(preprocessHellaSwag(' How [title] Do [step] it  now ')).toBe('How. Do it now');
  });

  it('of WinoGrande: the same ending behind either name', async () => {
    const doc = { sentence: 'Al saw Bo and _ waved.', option1: 'Al', option2: 'Bo', answer: '2' };
    expect(await asked('winogrande', folder({ 'winogrande.jsonl': lines(doc) }))).toEqual([
      'Al saw Bo and Al| waved.',
      'Al saw Bo and Bo| waved.',
    ]);
  });

  it('of LAMBADA: the last word', async () => {
    expect(await asked('lambada', folder({ 'lambada.jsonl': lines({ text: 'He shut the door' }) }))).toEqual([
      'He shut the| door',
    ]);
  });

  it('of MMLU: the first examples of the same subject, under what they are about', async () => {
    const q = (subject: string, question: string) => ({
      subject,
      question,
      choices: ['w', 'x', 'y', 'z'],
      answer: 2,
    });
    const data = folder({
      'mmlu_test.jsonl': lines(q('high_school_art', 'Q?')),
      'mmlu_dev.jsonl': lines(q('law', 'L?'), q('high_school_art', ' E1? '), q('high_school_art', 'E2?')),
    });
    const options = 'A. w\nB. x\nC. y\nD. z\nAnswer:';
    expect((await asked('mmlu', data, { fewshot: 1 }))[0]).toBe(
      `The following are multiple choice questions (with answers) about high school art.\n\nE1?\n${options} C\n\nQ?\n${options}| A`,
    );
    await expect(asked('mmlu', data, { fewshot: 3 })).rejects.toThrow(
      '--fewshot 3 needs more examples than the 2',
    );
  });

  it('never are their own examples', async () => {
    const docs = ['a', 'b', 'c'].map((goal) => ({ goal, sol1: `${goal}1`, sol2: `${goal}2`, label: 0 }));
    const seen = await asked('piqa', folder({ 'piqa.jsonl': lines(...docs) }), { fewshot: 2 });
    for (const [i, { goal }] of docs.entries())
      expect(seen[2 * i]?.split(`Question: ${goal}\n`), seen[2 * i]).toHaveLength(2);
  });
});

describe('data that is wrong', () => {
  const run = (files: Record<string, string>) => asked('piqa', folder(files));
  it('is named with its file, line and field', async () => {
    const good = { goal: 'g', sol1: 'a', sol2: 'b', label: 1 };
    await expect(run({ 'piqa.jsonl': `${lines(good)}\n{` })).rejects.toThrow(/piqa\.jsonl, line 2: .*JSON/);
    await expect(run({ 'piqa.jsonl': lines({ ...good, label: 2 }) })).rejects.toThrow(
      "line 1: 'label' must be a whole number from 0 to 1",
    );
    await expect(run({ 'piqa.jsonl': lines({ ...good, goal: 3 }) })).rejects.toThrow(
      "'goal' is missing or not text",
    );
    await expect(run({ 'piqa.jsonl': '\n' })).rejects.toThrow('holds no document');
    await expect(run({ 'other.jsonl': '' })).rejects.toThrow(/no piqa\.jsonl .* holds other\.jsonl/);
    await expect(run({ 'piqa.jsonl.gz': 'no gzip' })).rejects.toThrow('cannot be read');
    expect(() => new DataFolder('/nowhere')).toThrow('no such folder');
    expect(() => tasksNamed(['chess'])).toThrow("no task 'chess'; there are wikitext2");
  });

  it('programs are not run unasked', async () => {
    const { model } = fakeModel();
    await expect(
      evaluate(model, tasksNamed(['humaneval']), options(new DataFolder(BUILTIN_DATA))),
    ).rejects.toThrow('--allow-code-execution');
  });
});

describe('WikiText-2', () => {
  const raw = ' \n = A = \n \n One , two . \n = = B = = \n Three \n = C = \n Four \n';
  it('is joined as its rows are', () => {
    expect(joinedRows(' \n = A = \n')).toBe('\n\n = A = \n');
  });
  it('is cut into pages at headings of the first level, and detokenized', () => {
    expect(pagesOf(raw).map((page) => page.trim().split('\n').length)).toEqual([5, 2]);
    expect(detokenize('the cat @-@ dog , " yes " ( 3 @,@ 000 ) it \'s .')).toBe(
      'the cat-dog, "yes" (3,000) it\'s .',
    );
  });
});

it('every task runs on the items that come along', { timeout: 60_000 }, async () => {
  const { model } = fakeModel({ maxModelLen: 2048, numBlocks: 4096 });
  const tasks = TASKS.filter(({ runsCode }) => !runsCode);
  const results = await evaluate(
    model,
    tasks,
    options(new DataFolder(BUILTIN_DATA), { window: 512, limit: 2 }),
  );
  for (const result of results) {
    const { value, n, metrics } = summarize(result);
    expect(n, result.task.name).toBeGreaterThan(0);
    expect(Number.isNaN(value), result.task.name).toBe(false);
    expect(Object.keys(metrics)).toEqual(result.task.metrics.map(({ name }) => name));
  }
});
