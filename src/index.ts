/**
 * Filigree as a library: load a model, run it, serve it.
 *
 * ```ts
 * const manifest = await openModel(await resolveModel('./my-model'));
 * const runner = await loadNativeRunner(manifest, { ... });
 * const engine = new Engine(runner, { ... });
 * const app = await buildApp({ engine, model: { ... }, ... });
 * ```
 */
export { Engine, type EngineOptions, type EngineStats, type Generation } from './engine/engine.js';
export {
  GREEDY,
  type ModelRunner,
  type RunnerInfo,
  type SamplingParams,
  type StepEntry,
  type StepOutput,
  type StepRecord,
} from './engine/model-runner.js';
export type * from './engine/request.js';
export {
  TextBatch,
  type TextDelta,
  TextGeneration,
  type TextRequest,
  type TextResult,
} from './engine/text-generation.js';
export { ERROR_CODES, type ErrorCode, FiligreeError, type FiligreeErrorOptions } from './errors.js';
export { openModel, resolveModel } from './model/index.js';
export type * from './model/manifest.js';
export { loadNativeRunner } from './native/index.js';
export { type App, buildApp, type ServerOptions } from './server/app.js';
export { Lifecycle } from './server/lifecycle.js';
export type { ServedModel, Service } from './server/service.js';
export { ChatTemplate, TextStream, Tokenizer } from './tokenizer/index.js';
