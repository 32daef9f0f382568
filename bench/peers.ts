import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { median } from './measure.js';

/**
 * Peers run in a process of their own, one at a time, and never beside ours: on the same cores a spinning thread pool
 * would measure the fight. Rows have the shape of `bench`'s, with `engine` naming the peer.
 */
export interface PeerRow {
  engine: string;
  model: string;
  prefill_tps: number;
  decode_tps: number;
}

/** Where `npm i --ignore-scripts --omit=optional node-llama-cpp @node-llama-cpp/linux-x64` put it: cwd, or a folder given. */
export function findNodeLlamaCpp(folder: string): string | null {
  try {
    return createRequire(pathToFileURL(`${folder}/`)).resolve('node-llama-cpp');
  } catch {
    return null;
  }
}

/** llama-bench, as llama.cpp builds it; its JSON gives one row for prompt processing and one for generation. */
export async function llamaBench(
  program: string,
  gguf: string,
  options: { prompt: number; generate: number; threads: number; repetitions: number },
): Promise<PeerRow> {
  const output = await run(program, [
    '-m',
    gguf,
    '-t',
    String(options.threads),
    '-p',
    String(options.prompt),
    '-n',
    String(options.generate),
    '-r',
    String(options.repetitions),
    '-ngl',
    '0',
    '-o',
    'json',
  ]);
  const rows = JSON.parse(output) as {
    n_prompt: number;
    n_gen: number;
    samples_ts: number[];
    model_type: string;
  }[];
  const speed = (pick: (row: { n_prompt: number; n_gen: number }) => boolean) =>
    median(rows.find(pick)?.samples_ts ?? []);
  return {
    engine: 'llama.cpp',
    model: rows[0]?.model_type ?? gguf,
    prefill_tps: speed((r) => r.n_prompt > 0 && r.n_gen === 0),
    decode_tps: speed((r) => r.n_gen > 0 && r.n_prompt === 0),
  };
}

const NODE_LLAMA_CPP = `
const { getLlama } = await import(process.argv[1]);
const [, , gguf, prompt, generate, threads] = process.argv;
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath: gguf });
const context = await model.createContext({ contextSize: Number(prompt) + Number(generate) + 64, batchSize: 512, threads: Number(threads) });
const sequence = context.getSequence();
const tokens = Array.from({ length: Number(prompt) }, (_, i) => (i * 7919 + 11) % model.fileInfo.metadata.tokenizer.ggml.tokens.length);
let first = 0, start = performance.now(), made = 0;
for await (const _ of sequence.evaluate(tokens, { temperature: 0, yieldEogToken: true })) {
  if (made++ === 0) first = performance.now();
  if (made > Number(generate)) break;
}
const end = performance.now();
console.log(JSON.stringify({ prefill_tps: tokens.length / ((first - start) / 1000), decode_tps: (made - 1) / ((end - first) / 1000) }));
process.exit(0);
`;

export async function nodeLlamaCpp(
  entry: string,
  gguf: string,
  options: { prompt: number; generate: number; threads: number; repetitions: number },
): Promise<PeerRow> {
  const rounds: { prefill_tps: number; decode_tps: number }[] = [];
  for (let i = 0; i < options.repetitions; ++i) {
    const output = await run(process.execPath, [
      '--input-type=module',
      '-e',
      NODE_LLAMA_CPP,
      '--',
      pathToFileURL(entry).href,
      gguf,
      String(options.prompt),
      String(options.generate),
      String(options.threads),
    ]);
    rounds.push(JSON.parse(output.trim().split('\n').at(-1)!));
  }
  return {
    engine: 'node-llama-cpp',
    model: gguf,
    prefill_tps: median(rounds.map((r) => r.prefill_tps)),
    decode_tps: median(rounds.map((r) => r.decode_tps)),
  };
}

function run(program: string, args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let errors = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    child.stderr.on('data', (chunk) => (errors = (errors + chunk).slice(-4000)));
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0 ? resolve(output) : reject(new Error(`${program} ended with ${code}: ${errors}`)),
    );
  });
}

export const isFile = (path: string): boolean => existsSync(path);
