import type { NativeOptions } from '../src/native/index.js';

/** FILIGREE_TEST_DEVICE=cuda runs the tests that load a model on a GPU. */
export const DEVICE: 'cpu' | 'cuda' = process.env.FILIGREE_TEST_DEVICE === 'cuda' ? 'cuda' : 'cpu';

/** What such tests load a model with: they compare bits, which a GPU keeps only where it is asked to. */
export const ON_DEVICE: Pick<NativeOptions, 'device' | 'deterministic'> = {
  device: DEVICE,
  deterministic: DEVICE === 'cuda',
};

/** Why a test of what only the CPU has is skipped, or null. */
export const CPU_ONLY = DEVICE === 'cpu' ? null : 'skipped, on the CPU only';
