import { fileURLToPath } from 'node:url';
import { Engine, type EngineOptions } from '../../../src/engine/engine.js';
import type { ModelRunner } from '../../../src/engine/model-runner.js';
import { tokenTable } from '../../../src/grammar/index.js';
import { openModel } from '../../../src/model/index.js';
import { loadNativeRunner, NativeGrammars } from '../../../src/native/index.js';
import { type App, buildApp } from '../../../src/server/app.js';
import { Lifecycle } from '../../../src/server/lifecycle.js';
import { ChatTemplate, Tokenizer } from '../../../src/tokenizer/index.js';
import { ON_DEVICE } from '../../device.js';
import type { Json } from './fixture.js';

const TINY = fileURLToPath(new URL('../../fixtures/models/tiny.gguf', import.meta.url));

export interface TinyServer {
  app: App;
  engine: Engine;
  tokenizer: Tokenizer;
  post(url: string, body: Json): Promise<{ status: number; json: Json; text: string }>;
  close(): Promise<void>;
}

/**
 * The server on the real engine: a model of 40 tokens (letters, a few pairs of them, `.`, `!`, `?`) and 128 positions, whose
 * sampler and matcher are those of every model. `blocks` cuts the KV arena down until requests preempt each other.
 */
export async function serveTiny(
  options: { blocks?: number; engine?: Partial<EngineOptions> } = {},
): Promise<TinyServer> {
  const manifest = await openModel(TINY);
  const runner = await loadNativeRunner(manifest, {
    ...ON_DEVICE,
    weights: 'i8',
    dense: false,
    kv: 'f16',
    threads: 1,
    maxModelLen: 128,
    maxSlots: 8,
    maxBatchedTokens: 128,
    kvMemory: 4 << 20,
    packedCache: false,
  });
  const part: ModelRunner =
    options.blocks === undefined
      ? runner
      : Object.create(runner, { info: { value: { ...runner.info, numBlocks: options.blocks } } });
  const engine = new Engine(part, {
    maxNumSeqs: 8,
    maxNumBatchedTokens: 128,
    prefixCache: true,
    queueLimit: 256,
    queueTokenLimit: 100_000,
    ...options.engine,
  });
  const tokenizer = Tokenizer.create(manifest.tokenizer);
  const eosTokenIds = manifest.config.eosTokenIds;
  const app = await buildApp({
    engine,
    lifecycle: new Lifecycle(512),
    prefixCache: true,
    version: '0.0.0-test',
    model: {
      names: ['tiny'],
      tokenizer,
      template: ChatTemplate.create(manifest.chatTemplate as string, tokenizer),
      eosTokenIds,
      grammars: new NativeGrammars(() => tokenTable(tokenizer, runner.info.vocabSize, eosTokenIds)),
      architecture: 'llama',
      created: 1_700_000_000,
    },
  });
  return {
    app,
    engine,
    tokenizer,
    async post(url, body) {
      const response = await app.inject({ method: 'POST', url, payload: body });
      const text = response.body;
      return { status: response.statusCode, json: text.startsWith('{') ? JSON.parse(text) : null, text };
    },
    async close() {
      await app.close();
      await engine.close();
    },
  };
}
