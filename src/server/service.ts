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
  /** LoRA adapters over the model, by the name that requests choose them by; the engine's runner holds them. */
  adapters?: ReadonlyMap<string, ServedAdapter> | undefined;
  /** The one that this request chose: set in the view that `serviceFor` gives. */
  adapter?: string;
  /** Further models beside the first by name, each with an engine of its own: what `--compare` shows side by side. */
  variants?: ReadonlyMap<string, Variant> | undefined;
}

export interface ServedAdapter {
  /** Name of the folder it was read from. */
  root: string;
  rank: number;
}

export interface Variant {
  /** What the page calls it. */
  label: string;
  service: Service;
}

/** The service that a request's model names: one of the variants, or else the server's own, with the adapter if it names one. */
export function serviceFor(service: Service, requested: string | null | undefined): Service {
  const name = requested ?? '';
  const variant = service.variants?.get(name)?.service;
  if (variant !== undefined) return variant;
  return service.adapters?.has(name) ? { ...service, adapter: name } : service;
}

/** Every name that a request may give as its model. */
export const modelNames = ({ model, adapters, variants }: Service): string[] => [
  ...model.names,
  ...(adapters?.keys() ?? []),
  ...(variants?.keys() ?? []),
];

/** The name to answer with. @throws FiligreeError model_not_found */
export function resolveName(service: Service, requested: string | null | undefined): string {
  if (requested === undefined || requested === null || requested === '') return service.model.names[0];
  const names = modelNames(service);
  if (names.includes(requested)) return requested;
  throw new FiligreeError(
    'model_not_found',
    `The model '${requested}' does not exist. This server has: ${names.join(', ')}.`,
    { param: 'model' },
  );
}
