import type { Contestant, PointResult } from './contestant.js';
import { median, tokensPerSecond } from './measure.js';
import { besideBusyNeighbour } from './neighbour.js';

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
  /** Weight and KV bytes read a second while decoding; null for an engine whose bytes are not known. */
  decode_gbps: number | null;
  /** Decode speed over dense f32 of the same model, batch and rounds; null without that row. */
  x_dense_f32: number | null;
  prefill_x_dense_f32: number | null;
  /** Share of the measured read bandwidth that decoding reaches. */
  x_bound: number | null;
  /** Ours over the fastest peer at that batch; null for peers, and where none ran. */
  x_best_peer: number | null;
  prefill_x_best_peer: number | null;
  /** Decode speed beside a process that keeps a core busy, over the quiet one of the same round; null where that was not asked. */
  x_quiet: number | null;
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
  /** Measures everything a second time beside a process that keeps a core busy. */
  neighbour?: boolean;
  /** Read bandwidth in GB/s with so many threads. */
  measureBandwidth: (threads: number) => Promise<number>;
  onProgress?: (done: number, total: number, what: string) => void;
}

interface Measured extends Contestant {
  rounds: PointResult[];
  disturbed: PointResult[];
}

/**
 * Interleaves: every round measures every contestant once, and the machine's bandwidth beside them, so that a slow
 * minute of a shared machine hits all of them; ratios are formed within a round.
 */
export async function compare(contestants: Contestant[], options: CompareOptions): Promise<BenchResult> {
  const measured: Measured[] = contestants.map((c) => ({ ...c, rounds: [], disturbed: [] }));
  const bandwidth: number[] = [];
  const bandwidth1: number[] = [];
  const total = options.rounds * contestants.length;
  for (let round = 0; round < options.rounds; ++round) {
    bandwidth1.push(await options.measureBandwidth(1));
    bandwidth.push(await options.measureBandwidth(options.machine.threads));
    for (const [index, one] of measured.entries()) {
      options.onProgress?.(round * contestants.length + index, total, `${one.engine} ${one.format}`);
      one.rounds.push(await one.measure(options));
      if (options.neighbour) one.disturbed.push(await besideBusyNeighbour(() => one.measure(options)));
    }
  }
  options.onProgress?.(total, total, 'done');
  const machine = { ...options.machine, read_gbps_1: median(bandwidth1), read_gbps: median(bandwidth) };
  const { model, rounds, prompt, context } = options;
  return { machine, model, rounds, prompt, context, rows: rowsOf(measured, options, machine.read_gbps) };
}

const prefillSpeeds = (m: Measured) => m.rounds.map((round) => tokensPerSecond(round.prefill));
function decodeSpeeds(rounds: PointResult[], batch: number): number[] | null {
  if (rounds.length === 0) return null;
  const speeds = rounds.map((round) => round.decode.get(batch));
  return speeds.every((s) => s !== undefined) ? speeds.map(tokensPerSecond) : null;
}
const ratio = (mine: number[], base: number[] | null | undefined) =>
  base ? median(mine.map((value, round) => value / base[round]!)) : null;

function rowsOf(measured: Measured[], options: CompareOptions, readGbps: number): BenchRow[] {
  const base = measured.find((m) => m.baseline);
  const isPeer = (m: Measured) => m.engine !== 'filigree';
  const fastest = (speeds: (number[] | null)[]) =>
    speeds.filter((s) => s !== null).sort((a, b) => median(b) - median(a))[0];
  const peers = measured.filter(isPeer);
  const bestPrefill = fastest(peers.map(prefillSpeeds));
  return measured.flatMap((one) =>
    options.batches.flatMap((batch): BenchRow[] => {
      const decode = decodeSpeeds(one.rounds, batch);
      if (!decode) return [];
      const prefill = prefillSpeeds(one);
      const disturbed = decodeSpeeds(one.disturbed, batch);
      const decodeTps = median(decode);
      const bytes = one.stepBytes(batch, options.context);
      const gbps = bytes === null ? null : ((decodeTps / batch) * bytes) / 1e9;
      const bestDecode = fastest(peers.map((peer) => decodeSpeeds(peer.rounds, batch)));
      return [
        {
          engine: one.engine,
          format: one.format,
          sparsity: one.sparsity,
          weight_bytes: one.weightBytes,
          batch,
          prefill_tps: median(prefill),
          decode_tps: decodeTps,
          decode_gbps: gbps,
          x_dense_f32: ratio(decode, base && decodeSpeeds(base.rounds, batch)),
          prefill_x_dense_f32: ratio(prefill, base && prefillSpeeds(base)),
          x_bound: gbps === null ? null : gbps / readGbps,
          x_best_peer: isPeer(one) ? null : ratio(decode, bestDecode),
          prefill_x_best_peer: isPeer(one) ? null : ratio(prefill, bestPrefill),
          x_quiet: disturbed && ratio(disturbed, decode),
        },
      ];
    }),
  );
}
