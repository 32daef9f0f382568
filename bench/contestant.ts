import type { ModelRunner } from '../src/engine/model-runner.js';
import { measureDecode, measurePrefill, type Stretch } from './measure.js';

export type WeightFormat = 'f32' | 'bf16' | 'i8' | 'i4';

/** What is measured in a round: a prompt, then decoding at so many sequences at once. */
export interface Point {
  prompt: number;
  context: number;
  batches: number[];
}

export interface PointResult {
  prefill: Stretch;
  /** By batch; a peer that cannot decode several at once leaves that batch out. */
  decode: Map<number, Stretch>;
}

/** One row group of a comparison: an engine with a model loaded, or one that loads it each time. */
export interface Contestant {
  engine: string;
  format: string;
  sparsity: number;
  weightBytes: number;
  /** Our dense f32, which everything is held against. */
  baseline: boolean;
  /** Bytes that a decode step must read; null where they are not known. */
  stepBytes(batch: number, context: number): number | null;
  measure(point: Point): Promise<PointResult>;
  close(): Promise<void>;
}

/** Our engine, resident in this process; under one of the runner's adapters where one is named. condition: what else its row says. */
export function ownContestant(
  runner: ModelRunner,
  format: WeightFormat,
  sparse: boolean,
  condition: string,
  adapter?: string,
): Contestant {
  const { info } = runner;
  let warm = false;
  return {
    engine: 'filigree',
    format: `${format}${sparse ? ' sparse' : ' dense'}${condition}${adapter === undefined ? '' : ` + ${adapter}`}`,
    sparsity: sparse ? info.sparsity : 0,
    weightBytes: info.weightBytes,
    baseline: format === 'f32' && !sparse && adapter === undefined,
    stepBytes: (batch, context) => info.decodeWeightBytes + batch * context * info.kvBytesPerToken,
    async measure({ prompt, context, batches }) {
      // One unrecorded pass: first touches of workspaces and caches.
      if (!warm)
        await measureDecode(runner, { batch: 1, context: 16, minSeconds: 0.05, minSteps: 2, adapter });
      warm = true;
      const prefill = await measurePrefill(runner, prompt, adapter);
      const decode = new Map<number, Stretch>();
      for (const batch of batches)
        decode.set(batch, await measureDecode(runner, { batch, context, adapter }));
      return { prefill, decode };
    },
    close: () => runner.close(),
  };
}
