import type { Engine } from '../engine/engine.js';
import type { GrammarCompiler } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import type { GenerationDefaults } from '../model/index.js';
import type { ChatTemplate, Tokenizer } from '../tokenizer/index.js';
import type { KvEventPublisher } from './kv-events/publisher.js';
import type { Lifecycle } from './lifecycle.js';

/** Zeros of the model's matrices, for the page. */
export interface ZeroPicture {
  layers: number;
  /** Share of zeros by kind of matrix and layer; null while they are counted. */
  zeros(): Record<string, (number | null)[]> | null;
}

export interface ServedModel {
  /** The first is the one that answers carry when the request names none. */
  names: readonly [string, ...string[]];
  tokenizer: Tokenizer;
  /** Null: the model has no template, and chat is refused. */
  template: ChatTemplate | null;
  eosTokenIds: readonly number[];
  /** Sampling where a request says nothing; what is left out here is OpenAI's default. */
  generation?: GenerationDefaults;
  /** Compiles what an answer must be; left out or null: constrained output is refused. */
  grammars?: GrammarCompiler | null;
  architecture: string;
  picture?: ZeroPicture;
  /** Unix seconds. */
  created: number;
}

/** Everything the routes stand on. One object, made by buildApp's caller: no route reaches for anything else. */
export interface Service {
  engine: Engine;
  model: ServedModel;
  lifecycle: Lifecycle;
  /** Whether the engine was made with a prefix cache. */
  prefixCache: boolean;
  /** Publishes what the prefix cache holds, where that was asked for. */
  kvEvents?: KvEventPublisher | undefined;
  version: string;
  /** Further models beside the first by name, each with an engine of its own: what `--compare` shows side by side. */
  variants?: ReadonlyMap<string, Variant> | undefined;
}

export interface Variant {
  /** What the page calls it. */
  label: string;
  service: Service;
}

/** The service that a request's model names: one of the variants, or else the server's own. */
export function serviceFor(service: Service, requested: string | null | undefined): Service {
  return service.variants?.get(requested ?? '')?.service ?? service;
}

/** The name to answer with. @throws FiligreeError model_not_found */
export function resolveName(service: Service, requested: string | null | undefined): string {
  const { names } = service.model;
  if (requested === undefined || requested === null || requested === '') return names[0];
  if (names.includes(requested) || service.variants?.has(requested)) return requested;
  throw new FiligreeError(
    'model_not_found',
    `The model '${requested}' does not exist. This server has: ${[...names, ...(service.variants?.keys() ?? [])].join(', ')}.`,
    { param: 'model' },
  );
}
