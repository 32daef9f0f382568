import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { FiligreeError } from '../src/errors.js';
import type { Contestant, Point, PointResult } from './contestant.js';
import { median, type Stretch } from './measure.js';
import { runLoad, servedModel, syntheticPrompts } from './serve-load.js';

/**
 * Peers run in a process of their own, one at a time, and never beside ours: on the same cores a spinning thread pool
 * would measure the fight. They load their model anew each round; loading is not counted.
 */
export interface PeerOptions {
  threads: number;
  /** Tokens generated to time decoding. */
  generate: number;
  timeoutSeconds: number;
}

const ggufPeer = (
  engine: string,
  gguf: string,
  measure: (point: Point) => Promise<PointResult>,
): Contestant => ({
  engine,
  format: basename(gguf).replace(/\.gguf$/i, ''),
  sparsity: 0,
  weightBytes: statSync(gguf).size,
  baseline: false,
  stepBytes: (batch) => (batch === 1 ? statSync(gguf).size : null),
  measure,
  close: async () => {},
});

/** Per-second speed as a stretch of one second, so that ours and theirs are compared alike. */
const perSecond = (tps: number): Stretch => ({ seconds: 1, tokens: tps });

function run(program: string, args: string[], { timeoutSeconds }: PeerOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { maxBuffer: 1 << 26, timeout: timeoutSeconds * 1000, killSignal: 'SIGKILL' as const };
    execFile(program, args, options, (error, output, errors) => {
      if (!error) return resolve(output);
      const lines = errors.trim().split('\n');
      const last = lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1) ?? '';
      reject(
        new FiligreeError(
          'io_error',
          `${program} ${error.killed ? `did not end within ${timeoutSeconds} s` : `failed (${error.code}): ${last}`}`,
          { cause: error },
        ),
      );
    });
  });
}

/**
 * llama-bench of llama.cpp for prompts and one sequence; llama-batched-bench beside it, where it is built, for batches.
 */
export function llamaBench(program: string, gguf: string, options: PeerOptions): Contestant {
  const common = ['-m', gguf, '-t', String(options.threads), '-ngl', '0'];
  const batched = join(dirname(program), 'llama-batched-bench');
  return ggufPeer('llama.cpp', gguf, async ({ prompt, context, batches }) => {
    const bench = async (args: string[]) => {
      const output = await run(program, [...common, '-r', '1', '-o', 'json', ...args], options);
      return median((JSON.parse(output) as { avg_ts: number }[]).map((row) => row.avg_ts));
    };
    const prefill = perSecond(await bench(['-p', String(prompt), '-n', '0']));
    const decode = new Map<number, Stretch>();
    for (const batch of batches) {
      if (batch === 1) {
        const args = ['-p', '0', '-n', String(options.generate), '-d', String(context)];
        decode.set(1, perSecond(await bench(args)));
      } else if (existsSync(batched)) {
        const size = batch * (context + options.generate + 16);
        const points = ['-npp', String(context), '-ntg', String(options.generate), '-npl', String(batch)];
        const output = await run(
          batched,
          [...common, '-c', String(size), '--output-format', 'jsonl', ...points],
          options,
        );
        const row = output.split('\n').find((line) => line.startsWith('{'));
        if (row) decode.set(batch, perSecond((JSON.parse(row) as { speed_tg: number }).speed_tg));
      }
    }
    return { prefill, decode };
  });
}

/** Where `npm i --ignore-scripts --omit=optional node-llama-cpp @node-llama-cpp/linux-x64` put it, seen from `folder`. */
export function findNodeLlamaCpp(folder: string): string | null {
  try {
    return createRequire(pathToFileURL(`${folder}/`)).resolve('node-llama-cpp');
  } catch {
    return null;
  }
}

/** Run from a file: node-llama-cpp forks itself with the same flags, so that `node -e` would fork this script again. */
const NODE_LLAMA_CPP = `
const [entry, gguf, prompt, context, generate, threads] = process.argv.slice(2);
const { getLlama } = await import(entry);
const n = Number;
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: n(threads) });
const model = await llama.loadModel({ modelPath: gguf });
const contextSize = Math.max(n(prompt), n(context)) + n(generate) + 64;
const open = await model.createContext({ contextSize, batchSize: 512, threads: n(threads) });
const vocabulary = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
const some = (length) => Array.from({ length }, (_, i) => 300 + ((i * 7919 + 11) % (vocabulary - 300)));
async function speeds(length, count) {
  const sequence = open.getSequence();
  let first = 0, made = 0;
  const start = performance.now();
  for await (const _ of sequence.evaluate(some(length), { temperature: 0, yieldEogToken: true })) {
    if (made++ === 0) first = performance.now();
    if (made > count) break;
  }
  const end = performance.now();
  sequence.dispose();
  return { prefill: length / ((first - start) / 1000), decode: (made - 1) / ((end - first) / 1000) };
}
await speeds(16, 4);
const { prefill } = await speeds(n(prompt), 1);
const { decode } = await speeds(n(context), n(generate));
console.log(JSON.stringify({ prefill, decode }));
process.exit(0);
`;

/** What a Node user takes today. It decodes one sequence; other batches are left out. */
export function nodeLlamaCpp(entry: string, gguf: string, options: PeerOptions): Contestant {
  return ggufPeer('node-llama-cpp', gguf, async ({ prompt, context, batches }) => {
    const numbers = [prompt, context, options.generate, options.threads].map(String);
    const folder = mkdtempSync(join(tmpdir(), 'filigree-peer-'));
    const script = join(folder, 'peer.mjs');
    writeFileSync(script, NODE_LLAMA_CPP);
    const output = await run(
      process.execPath,
      [script, pathToFileURL(entry).href, gguf, ...numbers],
      options,
    ).finally(() => rmSync(folder, { recursive: true }));
    const { prefill, decode } = JSON.parse(output.trim().split('\n').at(-1)!) as Record<string, number>;
    return {
      prefill: perSecond(prefill!),
      decode: new Map(batches.includes(1) ? [[1, perSecond(decode!)]] : []),
    };
  });
}

/** Any OpenAI-compatible server, as streaming clients see it: first tokens give prefill, the gaps after them decoding. */
export async function serverPeer(name: string, url: string, options: PeerOptions): Promise<Contestant> {
  const model = await servedModel({ url }, {});
  let seed = 0;
  const load = async (promptTokens: number, generate: number, concurrency: number) => {
    // New prompts each time, so that no prefix cache flatters.
    const prompts = syntheticPrompts(concurrency + ++seed, promptTokens).slice(-concurrency);
    const report = await runLoad({
      url,
      model,
      concurrency,
      requests: concurrency,
      maxTokens: generate,
      prompts,
      goodTtft: 1,
      goodItl: 1,
      timeoutSeconds: options.timeoutSeconds,
    });
    const [problem] = Object.keys(report.errors);
    if (problem !== undefined) throw new FiligreeError('io_error', `${name} at ${url}: ${problem}`);
    return report;
  };
  return {
    engine: name,
    format: model,
    sparsity: 0,
    weightBytes: Number.NaN,
    baseline: false,
    stepBytes: () => null,
    async measure({ prompt, context, batches }) {
      const alone = await load(prompt, 2, 1);
      const decode = new Map<number, Stretch>();
      for (const batch of batches) {
        const report = await load(context, options.generate, batch);
        decode.set(batch, perSecond((batch * 1000) / report.ms_per_token));
      }
      const promptTokens = alone.prompt_tokens / alone.requests;
      return { prefill: { tokens: promptTokens, seconds: alone.ttft_ms.p50 / 1000 }, decode };
    },
    close: async () => {},
  };
}
