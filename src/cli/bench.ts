import { writeFileSync } from 'node:fs';
import type { BenchResult, Candidate, WeightFormat } from '../../bench/compare.js';
import { FiligreeError } from '../errors.js';
import type { ModelManifest } from '../model/manifest.js';
import { progressLine } from './progress-line.js';

export interface BenchOptions {
  shape?: string;
  sparsity: string;
  formats: string;
  batch: string;
  prompt: string;
  context: string;
  rounds: string;
  kv: 'f32' | 'f16' | 'bf16' | 'i8';
  threads?: string;
  isa?: string;
  report?: string;
  json?: boolean;
}

const FORMATS: WeightFormat[] = ['f32', 'bf16', 'i8', 'i4'];

export function numbers(flag: string, text: string, check: (value: number) => boolean): number[] {
  const values = text.split(',').map(Number);
  if (values.length === 0 || !values.every((v) => Number.isFinite(v) && check(v)))
    throw new FiligreeError('usage', `${flag} takes numbers separated by commas, not '${text}'`);
  return values;
}

export const integer = (flag: string, text: string, least: number): number => {
  const [value] = numbers(flag, text, (v) => Number.isInteger(v) && v >= least);
  return value!;
};

function formats(text: string): WeightFormat[] {
  const names = text.split(',');
  for (const name of names)
    if (!FORMATS.includes(name as WeightFormat))
      throw new FiligreeError('usage', `--formats takes some of ${FORMATS.join(',')}, not '${name}'`);
  return names as WeightFormat[];
}

/**
 * `filigree bench [MODEL]`: dense, sparse and sparse-quantized of one model (or of a random shape) in interleaved
 * rounds, against the bandwidth measured in the same run. All candidates are resident at once, so that no round waits
 * for a load.
 */
export async function benchCommand(model: string | undefined, options: BenchOptions): Promise<void> {
  const [{ compare }, { blocksNeeded }, report, { randomModel }, native, { openModel, resolveModel }] =
    await Promise.all([
      import('../../bench/compare.js'),
      import('../../bench/measure.js'),
      import('../../bench/report.js'),
      import('../../bench/shapes.js'),
      import('../native/index.js'),
      import('../model/index.js'),
    ]);
  if (model !== undefined && options.shape !== undefined)
    throw new FiligreeError('usage', 'give a MODEL or --shape, not both');
  const batches = numbers('--batch', options.batch, (v) => Number.isInteger(v) && v >= 1 && v <= 256);
  const sparsities = numbers('--sparsity', options.sparsity, (v) => v >= 0 && v < 1);
  const prompt = integer('--prompt', options.prompt, 1);
  const context = integer('--context', options.context, 1);
  const rounds = integer('--rounds', options.rounds, 1);
  const progress = progressLine(options.json);

  const manifests: { manifest: ModelManifest; sparsity: number }[] = options.shape
    ? sparsities.map((sparsity) => ({ manifest: randomModel(options.shape!, sparsity), sparsity }))
    : [{ manifest: await openModel(await resolveModel(model)), sparsity: Number.NaN }];

  const candidates: Candidate[] = [];
  try {
    for (const { manifest, sparsity } of manifests) {
      // A model from disk is shown both ways; a random shape is dense at 0 and sparse otherwise.
      const ways = Number.isNaN(sparsity) ? [false, true] : [sparsity > 0];
      for (const sparse of ways)
        for (const format of formats(options.formats)) {
          progress.show(`loading ${manifest.name} as ${format}${sparse ? ', sparse' : ', dense'}`);
          const runner = await native.loadNativeRunner(manifest, {
            weights: format,
            // As other engines store 4-bit models: the head of the i8 and i4 rows is i4.
            head: options.shape && (format === 'i8' || format === 'i4') ? 'i4' : undefined,
            dense: !sparse,
            kv: options.kv,
            threads: options.threads === undefined ? undefined : integer('--threads', options.threads, 1),
            isa: options.isa,
            maxModelLen: Math.min(manifest.config.maxPositionEmbeddings, Math.max(prompt, context + 80)),
            maxSlots: Math.max(...batches),
            maxBatchedTokens: Math.max(512, ...batches),
            kvMemory: kvMemory(manifest, blocksNeeded(prompt, Math.max(...batches), context), options.kv),
            packedCache: false,
          });
          if (sparse && runner.info.sparsity < 0.05) await runner.close();
          else candidates.push({ format, sparse, runner });
        }
    }
    const info = await native.nativeInfo();
    const result: BenchResult = await compare(candidates, {
      model: options.shape ? `${options.shape} shape, random weights` : manifests[0]!.manifest.name,
      machine: {
        cpu: info.cpu,
        isa: candidates[0]!.runner.info.isa,
        threads: candidates[0]!.runner.info.threads,
      },
      batches,
      prompt,
      context,
      rounds,
      measureBandwidth: (threads) => native.measureReadBandwidth(threads),
      onProgress: (done, total, what) =>
        progress.show(
          `round ${Math.floor(done / candidates.length) + 1} of ${rounds}: ${what} (${Math.round((100 * done) / total)} %)`,
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
    for (const { runner } of candidates) await runner.close();
  }
}

function kvMemory({ config }: ModelManifest, blocks: number, kv: BenchOptions['kv']): number {
  const bytes = { f32: 4, f16: 2, bf16: 2, i8: 1 }[kv];
  const perToken =
    2 * config.numLayers * config.numKvHeads * (config.headDim * bytes + (kv === 'i8' ? 4 : 0));
  return (blocks + 1) * 16 * perToken;
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
  goodTtft: string;
  goodItl: string;
  json?: boolean;
  output?: string;
}

/** `filigree bench serve --url`: load on any OpenAI-compatible server, as its clients see it. */
export async function benchServeCommand(options: BenchServeOptions): Promise<void> {
  const { readPrompts, runLoad, syntheticPrompts } = await import('../../bench/serve-load.js');
  const concurrency = integer('--concurrency', options.concurrency, 1);
  const requests =
    options.requests === undefined ? concurrency * 4 : integer('--requests', options.requests, 1);
  const progress = progressLine(options.json);
  const report = await runLoad({
    url: options.url,
    apiKey: options.apiKey,
    model: options.model,
    concurrency,
    rate: options.rate === undefined ? undefined : numbers('--rate', options.rate, (v) => v > 0)[0],
    requests,
    maxTokens: integer('--max-tokens', options.maxTokens, 1),
    prompts: options.prompts
      ? readPrompts(options.prompts)
      : syntheticPrompts(requests, integer('--prompt-tokens', options.promptTokens, 1)),
    goodTtft: numbers('--good-ttft', options.goodTtft, (v) => v > 0)[0]! / 1000,
    goodItl: numbers('--good-itl', options.goodItl, (v) => v > 0)[0]! / 1000,
    timeoutSeconds: 600,
    onDone: (done) => progress.show(`${done}/${requests} requests`),
  });
  progress.end();
  if (options.output) writeFileSync(options.output, `${JSON.stringify(report, null, 2)}\n`);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
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
      ...Object.entries(report.errors).map(([error, count]) => `error x${count}: ${error}`),
      '',
    ].join('\n'),
  );
  if (Object.keys(report.errors).length > 0) process.exitCode = 1;
}
