import Table from 'cli-table3';
import type { ModelManifest, TensorEntry } from '../src/model/manifest.js';
import type { KernelFormat, KernelLayout, KernelMatrix, KernelVariant } from '../src/native/index.js';
import { measurePeak, measureReadBandwidth, packKernelMatrix } from '../src/native/index.js';
import { median } from './measure.js';

/** A row of `bench kernels --json`: medians over rounds; ratios are medians of per-round ratios. */
export interface KernelRow {
  matrix: string;
  rows: number;
  cols: number;
  kernel: string;
  isa: string;
  format: KernelFormat;
  layout: KernelLayout;
  sparsity: number;
  tokens: number;
  ms: number;
  bits_per_weight: number;
  gbps: number;
  /** 1e9 multiply-accumulates a second, zeros counted as if they were multiplied. */
  gmacs: number;
  /** Time of the best dense f32 kernel on as many tokens over this one's. */
  x_dense_f32: number | null;
  /** Time that the measured bandwidth and arithmetic permit a dense product of these bytes, over the time taken. */
  x_bound: number;
  /** Whether the plan takes this kernel for that layout and number of tokens. */
  planned: boolean;
}

export interface KernelResult {
  machine: {
    cpu: string;
    threads: number;
    read_gbps: number;
    /** 1e9 multiply-accumulates a second, by instruction. */
    peak_gmacs: Record<string, number>;
  };
  model: string;
  rounds: number;
  rows: KernelRow[];
}

/** The rows of one kind of matrix over some layers, one after another. */
export interface StackedMatrix {
  name: string;
  tensors: TensorEntry[];
}

export interface KernelCandidate {
  variant: KernelVariant;
  tokens: number;
  planned: boolean;
}

const KINDS: Record<string, RegExp> = {
  qkv: /self_attn\.[qkv]_proj\.weight$/,
  o: /self_attn\.o_proj\.weight$/,
  gate_up: /mlp\.(gate|up)_proj\.weight$/,
  down: /mlp\.down_proj\.weight$/,
};
export const kindNames = Object.keys(KINDS);

/**
 * Matrices of a model's real shapes (and real zeros), each kind stacked over as many layers as it takes to hold
 * `weights` elements: more than any cache, so that one token reads memory as decoding does.
 */
export function stackedMatrices(model: ModelManifest, kinds: string[], weights: number): StackedMatrix[] {
  return kinds.flatMap((kind) => {
    const tensors: TensorEntry[] = [];
    let elements = 0;
    for (const tensor of model.tensors) {
      if (!KINDS[kind]!.test(tensor.name) || elements >= weights) continue;
      tensors.push(tensor);
      elements += tensor.shape[0]! * tensor.shape[1]!;
    }
    return tensors.length === 0 ? [] : [{ name: kind, tensors }];
  });
}

/** The same of a model's first layer alone, as an engine stacks them. */
export function layerMatrices(model: ModelManifest, kinds: string[]): StackedMatrix[] {
  const layer = model.tensors.filter(({ name }) => name.startsWith('model.layers.0.'));
  return stackedMatrices({ ...model, tensors: layer }, kinds, Number.POSITIVE_INFINITY);
}

/** What to measure: every kernel that serves one of `tokens`, and which of them the plan takes (the first that fits). */
export function kernelCandidates(kernels: KernelVariant[], tokens: number[]): KernelCandidate[] {
  const key = (v: KernelVariant, t: number) => `${v.format} ${v.layout} ${t}`;
  const taken = new Set<string>();
  return kernels.flatMap((variant) =>
    tokens
      .filter((t) => t >= variant.minTokens && t <= variant.maxTokens)
      .map((t) => {
        const planned = !taken.has(key(variant, t));
        taken.add(key(variant, t));
        return { variant, tokens: t, planned };
      }),
  );
}

export interface KernelBenchOptions {
  cpu: string;
  model: string;
  files: string[];
  matrices: StackedMatrix[];
  candidates: KernelCandidate[];
  threads: number;
  rounds: number;
  onProgress?: (done: number, total: number, what: string) => void;
}

interface Timed extends KernelCandidate {
  matrix: KernelMatrix;
  seconds: number[];
}

/** Interleaves as `compare` does: a round measures bandwidth, the multiply units and every kernel once. */
export async function benchKernels(options: KernelBenchOptions): Promise<KernelResult> {
  const { matrices, candidates, threads, rounds } = options;
  const peaks = new Map<string, { instruction: string; rounds: number[] }>();
  const bandwidth: number[] = [];
  const peakKey = (v: KernelVariant) => `${v.isa} ${v.format}`;
  const total = matrices.length * candidates.length * rounds;
  let done = 0;
  const rows: KernelRow[] = [];

  for (const stacked of matrices) {
    const packed = new Map<string, KernelMatrix>();
    try {
      const timed: Timed[] = [];
      for (const candidate of candidates) {
        const { format, layout } = candidate.variant as { format: KernelFormat; layout: KernelLayout };
        const key = `${format} ${layout}`;
        let matrix = packed.get(key);
        if (!matrix) {
          options.onProgress?.(done, total, `packing ${stacked.name} as ${key}`);
          matrix = await packKernelMatrix(stacked.tensors, options.files, { format, layout, threads });
          packed.set(key, matrix);
        }
        timed.push({ ...candidate, matrix, seconds: [] });
      }
      for (let round = 0; round < rounds; ++round) {
        bandwidth.push(await measureReadBandwidth(threads));
        for (const { variant } of candidates) {
          const seen = peaks.get(peakKey(variant));
          if (seen && seen.rounds.length > round) continue;
          const peak = await measurePeak(variant.format as KernelFormat, variant.isa, threads);
          if (!peak) continue;
          if (seen) seen.rounds.push(peak.macsPerSecond);
          else peaks.set(peakKey(variant), { instruction: peak.instruction, rounds: [peak.macsPerSecond] });
        }
        for (const one of timed) {
          options.onProgress?.(done++, total, `${stacked.name}: ${one.variant.name}, ${one.tokens} tokens`);
          one.seconds.push(await one.matrix.measure(one.variant.name, one.tokens, 1));
        }
      }
      const read = median(bandwidth) * 1e9;
      const bestF32 = (tokens: number) =>
        timed
          .filter((t) => t.variant.format === 'f32' && t.variant.layout === 'dense' && t.tokens === tokens)
          .sort((a, b) => median(a.seconds) - median(b.seconds))[0];
      for (const { variant, tokens, planned, matrix, seconds } of timed) {
        const weights = matrix.rows * matrix.cols;
        const time = median(seconds);
        const peak = peaks.get(peakKey(variant));
        const arithmetic = peak ? (weights * tokens) / median(peak.rounds) : 0;
        const base = bestF32(tokens);
        rows.push({
          matrix: stacked.name,
          rows: matrix.rows,
          cols: matrix.cols,
          kernel: variant.name,
          isa: variant.isa,
          format: variant.format as KernelFormat,
          layout: variant.layout as KernelLayout,
          sparsity: 1 - matrix.stored / weights,
          tokens,
          ms: time * 1e3,
          bits_per_weight: (matrix.bytes * 8) / weights,
          gbps: matrix.bytes / time / 1e9,
          gmacs: (weights * tokens) / time / 1e9,
          x_dense_f32: base ? median(base.seconds.map((s, round) => s / seconds[round]!)) : null,
          x_bound: Math.max(matrix.bytes / read, arithmetic) / time,
          planned,
        });
      }
    } finally {
      for (const matrix of packed.values()) matrix.close();
    }
  }
  options.onProgress?.(total, total, 'done');
  return {
    machine: {
      cpu: options.cpu,
      threads,
      read_gbps: median(bandwidth),
      peak_gmacs: Object.fromEntries(
        [...peaks.values()].map((p) => [p.instruction, median(p.rounds) / 1e9] as const),
      ),
    },
    model: options.model,
    rounds,
    rows,
  };
}

/** One table a matrix; `*` marks what the plan takes. */
export function kernelTable(result: KernelResult): string {
  const { machine } = result;
  const lines = [
    `${result.model}, ${machine.cpu}, ${machine.threads} threads, medians of ${result.rounds} interleaved rounds`,
    `read ${machine.read_gbps.toFixed(1)} GB/s; multiply-accumulates on registers (G/s): ${Object.entries(
      machine.peak_gmacs,
    )
      .map(([instruction, gmacs]) => `${instruction} ${gmacs.toFixed(0)}`)
      .join(', ')}`,
  ];
  for (const name of new Set(result.rows.map((r) => r.matrix))) {
    const rows = result.rows.filter((r) => r.matrix === name);
    const table = new Table({
      head: [
        'kernel',
        'layout',
        'zeros',
        'tokens',
        'ms',
        'bits/w',
        'GB/s',
        'GMAC/s',
        'x dense f32',
        'of bound',
      ],
      style: { head: [], border: [], compact: true },
      colAligns: ['left', 'left', 'right', 'right', 'right', 'right', 'right', 'right', 'right', 'right'],
    });
    for (const r of rows)
      table.push([
        `${r.planned ? '*' : ' '} ${r.kernel}`,
        `${r.format} ${r.layout}`,
        `${Math.round(r.sparsity * 100)} %`,
        r.tokens,
        r.ms.toFixed(2),
        r.bits_per_weight.toFixed(2),
        r.gbps.toFixed(1),
        r.gmacs.toFixed(1),
        r.x_dense_f32 === null ? '–' : r.x_dense_f32.toFixed(2),
        `${Math.round(r.x_bound * 100)} %`,
      ]);
    lines.push('', `${name}: ${rows[0]!.rows} x ${rows[0]!.cols}`, table.toString());
  }
  lines.push(
    '',
    '* what the plan takes. "of bound": the time that the bandwidth and the multiply unit permit over the time taken;',
    '  a kernel that multiplies nonzeros only may pass 100 % on many tokens.',
  );
  return lines.join('\n');
}
