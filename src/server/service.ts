import type { Engine } from '../engine/engine.js';
import { FiligreeError } from '../errors.js';
import type { ChatTemplate, Tokenizer } from '../tokenizer/index.js';
import type { Lifecycle } from './lifecycle.js';

export interface ServedModel {
  /** The first is the one that answers carry when the request names none. */
  names: readonly [string, ...string[]];
  tokenizer: Tokenizer;
  /** Null: the model has no template, and chat is refused. */
  template: ChatTemplate | null;
  eosTokenIds: readonly number[];
  architecture: string;
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
  version: string;
}

/** The name to answer with. @throws FiligreeError model_not_found */
export function resolveName(service: Service, requested: string | null | undefined): string {
  const { names } = service.model;
  if (requested === undefined || requested === null || requested === '') return names[0];
  if (names.includes(requested)) return requested;
  throw new FiligreeError(
    'model_not_found',
    `The model '${requested}' does not exist. This server has: ${names.join(', ')}.`,
    { param: 'model' },
  );
}
