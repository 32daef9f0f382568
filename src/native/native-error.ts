import { type ErrorCode, FiligreeError } from '../errors.js';
import type { NativeErrorCode } from './addon-types.js';

const LOADING: Record<NativeErrorCode, ErrorCode> = {
  invalid_argument: 'usage',
  corrupt_data: 'model_invalid',
  io: 'io_error',
  out_of_memory: 'out_of_memory',
  unsupported: 'model_unsupported',
  internal: 'internal_error',
};

/** An error of the addon while a model is loaded, under the code that the commands and the server know. */
export function loadError(error: unknown, name: string): unknown {
  if (!(error instanceof Error) || error instanceof FiligreeError) return error;
  const code = LOADING[(error as { code?: NativeErrorCode }).code ?? 'internal'] ?? 'internal_error';
  return new FiligreeError(code, `${name}: ${error.message}`, { cause: error });
}

/** An error of the addon in a step: the scheduler's or ours, never a client's. */
export function stepError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof FiligreeError) return error;
  return new FiligreeError('engine_failed', `the engine refused a step: ${error.message}`, { cause: error });
}
