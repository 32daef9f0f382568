import { statSync } from 'node:fs';
import { FiligreeError } from '../errors.js';
import { openGguf } from './gguf-model.js';
import { openHfFolder } from './hf-folder.js';
import type { ModelManifest } from './manifest.js';
import { resolveModel } from './resolve.js';

export { ADAPTER_TARGETS, type AdapterManifest, openAdapter, targetShape } from './adapter.js';
export type { GenerationDefaults } from './generation-defaults.js';
export type * from './manifest.js';
export { cacheFolder, embeddedDefault, type Progress, resolveModel } from './resolve.js';

/**
 * Reads everything about a model but its weights, and checks all of it: configuration against tensors, every length
 * and offset against the files, tokenizer and template.
 *
 * @param pathOrName a folder, a .gguf file, or a name as `resolveModel` takes it
 * @throws FiligreeError (`model_missing`, `model_invalid`, `model_unsupported`, `tokenizer_invalid`,
 *   `template_invalid`, `io_error`) saying what is wrong and what to do
 */
export async function openModel(pathOrName: string): Promise<ModelManifest> {
  const path = await resolveModel(pathOrName);
  try {
    return statSync(path).isDirectory() ? openHfFolder(path) : openGguf(path);
  } catch (error) {
    if (error instanceof FiligreeError) throw error;
    // Node's own errors of opening and reading; anything else is a fault of ours and must not hide as the model's.
    if (error instanceof Error && 'syscall' in error) {
      throw new FiligreeError('io_error', `Cannot read ${path}: ${error.message}`, { cause: error });
    }
    throw error;
  }
}
