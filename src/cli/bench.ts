import { writeFileSync } from 'node:fs';
import type { BenchResult } from '../../bench/compare.js';
import type { Contestant } from '../../bench/contestant.js';
import type { EngineShare } from '../../bench/serve-load.js';
import { integer, numbers, pick } from './bench-options.js';
import { type ContestOptions, ownContestants } from './own-contestants.js';
import { type ProgressLine, progressLine } from './progress-line.js';

export interface BenchOptions extends ContestOptions {
  rounds: string;
  neighbour?: boolean;
  report?: string;
  json?: boolean;
}

/**
 * `filigree bench [MODEL]`: dense, sparse and sparse-quantized of one model (or of a random shape) in interleaved
 * rounds, against the bandwidth measured in the same run. All candidates are resident at once, so that no round waits
 * for a load.
 */
export async function benchCommand(model: string | undefined, options: BenchOptions): Promise<void> {
  const progress = progressLine(options.json);
  const { contestants, name } = await ownContestants(model, options, progress);
  await contest(contestants, name, options, progress);
}

/** Runs the rounds, prints the table or the JSON, writes the report; closes the contestants whatever happens. */
export async function contest(
  contestants: Contestant[],
  model: string,
  options: BenchOptions,
  progress: ProgressLine,
): Promise<void> {
  const [{ compare }, report, native] = await Promise.all([
    import('../../bench/compare.js'),
    import('../../bench/report.js'),
    import('../native/index.js'),
  ]);
  try {
    const info = await native.nativeInfo();
    const rounds = integer('--rounds', options.rounds, 1);
    const result: BenchResult = await compare(contestants, {
      model,
      machine: {
        cpu: info.cpu,
        isa: options.isa ?? info.bestIsa,
        threads:
          options.threads === undefined ? info.defaultThreads : integer('--threads', options.threads, 1),
      },
      batches: numbers('--batch', options.batch, (v) => Number.isInteger(v) && v >= 1 && v <= 256),
      prompt: integer('--prompt', options.prompt, 1),
      context: integer('--context', options.context, 1),
      rounds,
      neighbour: options.neighbour,
      measureBandwidth: (threads) => native.measureReadBandwidth(threads),
      onProgress: (done, total, what) =>
        progress.show(
          `round ${Math.floor(done / contestants.length) + 1} of ${rounds}: ${what} (${Math.round((100 * done) / total)} %)`,
        ),
    });
    progress.end();
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else process.stdout.write(`${report.table(result)}\n`);
    if (options.report) {
      const files = await report.writeReport(result, options.report);
      process.stderr.write(`report: ${options.report}/{${files.join(', ')}}\n`);
    }
  } finally {
    for (const contestant of contestants) await contestant.close();
  }
}

export interface BenchServeOptions {
  url: string;
  apiKey?: string;
  model?: string;
  concurrency: string;
  rate?: string;
  requests?: string;
  maxTokens: string;
  prompts?: string;
  promptTokens: string;
  prefixTokens: string;
  prefixGroups: string;
  goodTtft: string;
  goodItl: string;
  neighbour?: boolean;
  json?: boolean;
  output?: string;
}

const engineLine = (e: EngineShare) =>
  `engine's steps         ${e.steps} of ${e.tokens_per_step.toFixed(1)} tokens, ${e.step_ms.toFixed(2)} ms each: ${e.compute_ms.toFixed(2)} ms computed, ` +
  `${(100 * e.js_share).toFixed(1)} % JavaScript`;

/** `filigree bench serve --url`: load on any OpenAI-compatible server, as its clients see it. */
export async function benchServeCommand(options: BenchServeOptions): Promise<void> {
  const [{ readPrompts, runLoad, syntheticPrompts }, { besideBusyNeighbour }] = await Promise.all([
    import('../../bench/serve-load.js'),
    import('../../bench/neighbour.js'),
  ]);
  const concurrency = integer('--concurrency', options.concurrency, 1);
  const requests =
    options.requests === undefined ? concurrency * 4 : integer('--requests', options.requests, 1);
  const promptTokens = integer('--prompt-tokens', options.promptTokens, 1);
  const prefix = {
    tokens: integer('--prefix-tokens', options.prefixTokens, 0),
    groups: integer('--prefix-groups', options.prefixGroups, 1),
  };
  const progress = progressLine(options.json);
  const prompts = options.prompts
    ? readPrompts(options.prompts)
    : syntheticPrompts(2 * requests, promptTokens, prefix);
  const load = (from: number) =>
    runLoad({
      url: options.url,
      apiKey: options.apiKey,
      model: options.model,
      concurrency,
      rate: options.rate === undefined ? undefined : numbers('--rate', options.rate, (v) => v > 0)[0],
      requests,
      maxTokens: integer('--max-tokens', options.maxTokens, 1),
      // The second load has prompts of its own: the server's prefix cache knows the first one's.
      prompts: prompts.length > from ? prompts.slice(from) : prompts,
      goodTtft: numbers('--good-ttft', options.goodTtft, (v) => v > 0)[0]! / 1000,
      goodItl: numbers('--good-itl', options.goodItl, (v) => v > 0)[0]! / 1000,
      timeoutSeconds: 600,
      onDone: (done) => progress.show(`${done}/${requests} requests`),
    });
  const report = await load(0);
  const disturbed = options.neighbour ? await besideBusyNeighbour(() => load(requests)) : null;
  progress.end();
  const reported = disturbed === null ? report : { ...report, beside_busy_neighbour: disturbed };
  if (options.output) writeFileSync(options.output, `${JSON.stringify(reported, null, 2)}\n`);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(reported)}\n`);
    return;
  }
  const q = (name: string, v: { p50: number; p95: number; p99: number }) =>
    `${name.padEnd(22)} p50 ${v.p50.toFixed(1).padStart(8)}   p95 ${v.p95.toFixed(1).padStart(8)}   p99 ${v.p99.toFixed(1).padStart(8)}  ms`;
  process.stdout.write(
    [
      `${report.model} at ${report.url}: ${report.requests} requests, ${report.concurrency} at once, ${report.seconds.toFixed(1)} s`,
      `throughput             ${report.output_tps.toFixed(1)} tokens/s, ${report.request_per_s.toFixed(2)} requests/s`,
      `goodput                ${report.goodput_per_s.toFixed(2)} requests/s (first token <= ${options.goodTtft} ms, then <= ${options.goodItl} ms a token)`,
      q('time to first token', report.ttft_ms),
      q('between tokens', report.itl_ms),
      q('whole request', report.e2e_ms),
      ...(report.engine === null ? [] : [engineLine(report.engine)]),
      ...(disturbed === null
        ? []
        : [
            `beside a busy process  ${disturbed.output_tps.toFixed(1)} tokens/s, ${(disturbed.output_tps / report.output_tps).toFixed(2)} of the quiet throughput`,
          ]),
      ...Object.entries(report.errors).map(([error, count]) => `error x${count}: ${error}`),
      '',
    ].join('\n'),
  );
  if (Object.keys(report.errors).length > 0) process.exitCode = 1;
}

/** `filigree bench gguf`: random weights of a shape in a file that any GGUF engine loads. */
export async function benchGgufCommand(
  file: string,
  options: { shape: string; type: string; sparsity: string },
): Promise<void> {
  const { randomGgufTypes, writeRandomGguf } = await import('../../bench/random-gguf.js');
  const [type] = pick('--type', options.type, randomGgufTypes);
  const [zeros] = numbers('--sparsity', options.sparsity, (v) => v >= 0 && v < 1);
  writeRandomGguf(file, options.shape, type!, zeros);
}
