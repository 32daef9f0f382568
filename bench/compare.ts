import type { ModelRunner } from '../src/engine/model-runner.js';
import { measureDecode, measurePrefill, median, type Stretch, tokensPerSecond } from './measure.js';

export type WeightFormat = 'f32' | 'bf16' | 'i8' | 'i4';

/** One candidate of the comparison, loaded. */
export interface Candidate {
  format: WeightFormat;
  /** Stored sparse (true) or expanded to dense. */
  sparse: boolean;
  runner: ModelRunner;
}

export interface Machine {
  cpu: string;
  isa: string;
  threads: number;
  read_gbps_1: number;
  read_gbps: number;
}

/** A row of `bench --json`: medians over rounds; ratios are medians of per-round ratios. */
export interface BenchRow {
  engine: string;
  format: string;
  sparsity: number;
  weight_bytes: number;
  batch: number;
  prefill_tps: number;
  decode_tps: number;
  /** Weight and KV bytes read a second while decoding. */
  decode_gbps: number;
  /** Decode speed over dense f32 of the same model, batch and rounds; null without that row. */
  x_dense_f32: number | null;
  prefill_x_dense_f32: number | null;
  /** Share of the measured read bandwidth that decoding at batch 1 reaches. */
  x_bound: number;
}

export interface BenchResult {
  machine: Machine;
  model: string;
  rounds: number;
  prompt: number;
  context: number;
  rows: BenchRow[];
}

export interface CompareOptions {
  model: string;
  machine: Omit<Machine, 'read_gbps_1' | 'read_gbps'>;
  batches: number[];
  prompt: number;
  context: number;
  rounds: number;
  /** Read bandwidth in GB/s with so many threads. */
  measureBandwidth: (threads: number) => Promise<number>;
  onProgress?: (done: number, total: number, what: string) => void;
}

interface Samples {
  prefill: Stretch[];
  decode: Map<number, Stretch[]>;
}

export const candidateName = (c: Pick<Candidate, 'format' | 'sparse'>): string =>
  `${c.format}${c.sparse ? ' sparse' : ' dense'}`;

/**
 * Interleaves: every round measures every candidate once, and the machine's bandwidth beside them, so that a slow
 * minute of a shared machine hits all of them; ratios are formed within a round.
 */
export async function compare(candidates: Candidate[], options: CompareOptions): Promise<BenchResult> {
  const samples = candidates.map(
    (): Samples => ({ prefill: [], decode: new Map(options.batches.map((b) => [b, []])) }),
  );
  const bandwidth: number[] = [];
  const bandwidth1: number[] = [];
  const total = options.rounds * candidates.length;
  // One unrecorded pass: first touches of workspaces and caches.
  for (const { runner } of candidates)
    await measureDecode(runner, { batch: 1, context: 16, minSeconds: 0.05, minSteps: 2 });
  for (let round = 0; round < options.rounds; ++round) {
    bandwidth1.push(await options.measureBandwidth(1));
    bandwidth.push(await options.measureBandwidth(options.machine.threads));
    for (const [index, { runner, ...candidate }] of candidates.entries()) {
      options.onProgress?.(round * candidates.length + index, total, candidateName(candidate));
      const sample = samples[index]!;
      sample.prefill.push(await measurePrefill(runner, options.prompt));
      for (const batch of options.batches)
        sample.decode.get(batch)!.push(await measureDecode(runner, { batch, context: options.context }));
    }
  }
  options.onProgress?.(total, total, 'done');

  const read = median(bandwidth);
  const baseline = candidates.findIndex((c) => c.format === 'f32' && !c.sparse);
  const perRound = (stretches: Stretch[]) => stretches.map(tokensPerSecond);
  const ratio = (mine: number[], base: number[] | undefined) =>
    base ? median(mine.map((value, round) => value / base[round]!)) : null;
  const rows = candidates.flatMap((candidate, index) =>
    options.batches.map((batch): BenchRow => {
      const { runner } = candidate;
      const prefill = perRound(samples[index]!.prefill);
      const decode = perRound(samples[index]!.decode.get(batch)!);
      const base = samples[baseline];
      const decodeTps = median(decode);
      const bytesPerStep =
        runner.info.decodeWeightBytes + batch * options.context * runner.info.kvBytesPerToken;
      const gbps = ((decodeTps / batch) * bytesPerStep) / 1e9;
      return {
        engine: 'filigree',
        format: candidateName(candidate),
        sparsity: candidate.sparse ? runner.info.sparsity : 0,
        weight_bytes: runner.info.weightBytes,
        batch,
        prefill_tps: median(prefill),
        decode_tps: decodeTps,
        decode_gbps: gbps,
        x_dense_f32: ratio(decode, base && perRound(base.decode.get(batch)!)),
        prefill_x_dense_f32: ratio(prefill, base && perRound(base.prefill)),
        x_bound: gbps / read,
      };
    }),
  );
  return {
    machine: { ...options.machine, read_gbps_1: median(bandwidth1), read_gbps: read },
    model: options.model,
    rounds: options.rounds,
    prompt: options.prompt,
    context: options.context,
    rows,
  };
}
