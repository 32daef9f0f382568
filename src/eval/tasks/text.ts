import { readDocs, readText, text } from '../data.js';
import { rollingParts, windowNlls } from '../perplexity.js';
import { encodePair, likelihoods } from '../score.js';
import { accuracy, type Metric, perplexity, type Sample, type Task, type TaskRun } from '../types.js';
import { prompted } from './choice.js';

const WIKITEXT = ['wikitext2_raw_test.txt', 'wiki.test.raw'];

/**
 * The text of WikiText-2 in SparseGPT's and GPTQ's form: "\n\n".join of the rows that Hugging Face's dataset has, which
 * are the file's lines with their newline, and nothing for the line " ".
 */
export function joinedRows(file: string): string {
  const lines = file.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map((line) => (line === ' ' ? '' : `${line}\n`)).join('\n\n');
}

/** SparseGPT's perplexity: windows of 2048 tokens, exp of the mean over windows. */
export const wikitext2: Task = {
  name: 'wikitext2',
  about: "perplexity of a token, SparseGPT's form: windows of 2048 tokens; --limit counts windows",
  metrics: [perplexity('perplexity')],
  files: WIKITEXT,
  fewshot: 0,
  async run(run) {
    const { model, data } = run;
    const ids = await model.tokenizer.encodeAsync(joinedRows(readText(data.require(wikitext2))), {
      addSpecial: false,
    });
    const window = Math.min(run.window ?? 2048, model.engine.info.maxModelLen, ids.length);
    const nlls = await windowNlls(model, ids, { ...run, window });
    return nlls.map((nll, index) => ({ index, values: { perplexity: nll }, detail: { window, nll } }));
  },
};

/** Pages of the raw file, as the dataset `wikitext_document_level` cuts it: at headings of the first level. */
export function pagesOf(file: string): string[] {
  const pages: string[] = [];
  let page: string[] = [];
  const close = () => {
    const joined = page.join('\n');
    if (joined.trim() !== '') pages.push(joined);
    page = [];
  };
  for (const line of file.split('\n')) {
    const flat = line.replaceAll('= = =', '===').replaceAll('= =', '==').trim();
    if (flat.startsWith('= ') && flat.endsWith(' =')) close();
    page.push(line);
  }
  close();
  return pages;
}

/** The harness's `wikitext_detokenizer`, replacement by replacement. */
export function detokenize(page: string): string {
  let string = page.replaceAll("s '", "s'");
  string = string.replace(/\/' [0-9]\//g, "/'[0-9]/");
  for (const mark of ['-', ',', '.']) string = string.replaceAll(` @${mark}@ `, mark);
  for (const mark of [':', ';', '.', '!', '?', ',']) string = string.replaceAll(` ${mark} `, `${mark} `);
  string = string
    .replace(/\(\s*([^)]*?)\s*\)/g, '($1)')
    .replace(/\[\s*([^\]]*?)\s*\]/g, '[$1]')
    .replace(/\{\s*([^}]*?)\s*\}/g, '{$1}')
    .replace(/"\s*([^"]*?)\s*"/g, '"$1"')
    .replace(/'\s*([^']*?)\s*'/g, "'$1'");
  return string
    .replaceAll('= = = =', '====')
    .replaceAll('= = =', '===')
    .replaceAll('= =', '==')
    .replaceAll(' ° ', '°')
    .replaceAll(' \n', '\n')
    .replaceAll('\n ', '\n')
    .replaceAll(' N ', ' 1 ')
    .replaceAll(" 's", "'s");
}

const BITS: Metric = { name: 'bits_per_byte', scale: 'linear', higherIsBetter: false };

/** Word-level perplexity, as the harness's task `wikitext`. */
export const wikitext: Task = {
  name: 'wikitext',
  about: "perplexity of a word over detokenized pages, the harness's form",
  metrics: [perplexity('word_perplexity'), perplexity('byte_perplexity'), BITS],
  files: ['wikitext.jsonl', ...WIKITEXT],
  fewshot: 0,
  async run(run) {
    const { model, data } = run;
    const path = data.require(wikitext);
    const pages = (
      path.includes('.jsonl')
        ? readDocs(path, (raw) => text(raw, 'page'), run.limit)
        : pagesOf(readText(path))
    ).slice(0, run.limit);
    const parts = pages.map((page) =>
      rollingParts(model, model.tokenizer.encode(detokenize(page), { addSpecial: false })),
    );
    const scores = await likelihoods(model, parts.flat(), run);
    let at = 0;
    return pages.map((page, index) => {
      const own = scores.slice(at, at + (parts[index] as unknown[]).length);
      at += own.length;
      const nll = -own.reduce((sum, { logprob }) => sum + logprob, 0);
      // Words and bytes are counted in the page as it was, before detokenization.
      const words = page.split(/\s+/).length;
      const bytes = Buffer.byteLength(page);
      return {
        index,
        values: { word_perplexity: nll, byte_perplexity: nll, bits_per_byte: nll / Math.LN2 },
        weights: { word_perplexity: words, byte_perplexity: bytes, bits_per_byte: bytes },
        detail: { nll, words, bytes },
      };
    });
  },
};

/** The last word of a passage, as the harness's `lambada_openai`. */
export const lambada: Task = {
  name: 'lambada',
  about: 'the last word of a passage, right where greedy decoding would write it',
  metrics: [accuracy('acc'), perplexity('perplexity')],
  files: ['lambada.jsonl', 'lambada_openai.jsonl', 'lambada_test.jsonl'],
  fewshot: 0,
  async run(run: TaskRun): Promise<Sample[]> {
    const { model, data } = run;
    const path = data.require(lambada);
    const passages = readDocs(path, (raw) => text(raw, 'text'), run.limit);
    const requests = passages.map((passage) => {
      const words = passage.split(' ');
      const last = words.pop() as string;
      const context = prompted(model, words.join(' '), run.chat);
      return encodePair(model, { context, continuation: ` ${last}` });
    });
    const scores = await likelihoods(model, requests, { ...run, greedy: true });
    return scores.map(({ logprob, greedy }, index) => ({
      index,
      values: { acc: Number(greedy), perplexity: -logprob },
      detail: { ll: logprob, greedy },
    }));
  },
};
