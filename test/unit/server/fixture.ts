import { Engine, type EngineOptions } from '../../../src/engine/engine.js';
import type {
  ModelRunner,
  RunnerInfo,
  SamplingParams,
  StepOutput,
  StepRecord,
} from '../../../src/engine/model-runner.js';
import { tokenTable } from '../../../src/grammar/index.js';
import type { TokenizerSource } from '../../../src/model/manifest.js';
import type { NativeMatcher } from '../../../src/native/addon-types.js';
import { createMatcher, NativeGrammars } from '../../../src/native/index.js';
import { type App, buildApp, type ServerOptions } from '../../../src/server/app.js';
import { Lifecycle } from '../../../src/server/lifecycle.js';
import type { Service } from '../../../src/server/service.js';
import { ChatTemplate, Tokenizer } from '../../../src/tokenizer/index.js';

// biome-ignore lint/suspicious/noExplicitAny: a client's view of an answer, judged by the assertions
export type Json = any;

/** GPT-2's printable stand-ins for bytes. */
function byteLetters(): string[] {
  const letters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    letters.push(String.fromCodePoint(printable ? byte : next++));
  }
  return letters;
}

export const SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'] as const;
/** Ids of the specials; ids 3..258 are the bytes. */
export const EOS = 2;
export const byteId = (byte: number): number => byte + SPECIALS.length;
export const VOCAB = 256 + SPECIALS.length;

const template =
  "{% for m in messages %}{% if m['content'] == 'refuse' %}{{ raise_exception('No such talk.') }}{% endif %}" +
  "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/**
 * A tokenizer of single bytes: small, and every multi-byte character is split over tokens. `controls` are further control
 * tokens, behind the bytes.
 */
export function byteTokenizer(controls: readonly string[] = []): Tokenizer {
  const vocab: Record<string, number> = {};
  SPECIALS.forEach((token, id) => {
    vocab[token] = id;
  });
  byteLetters().forEach((letter, byte) => {
    vocab[letter] = byteId(byte);
  });
  controls.forEach((token, i) => {
    vocab[token] = VOCAB + i;
  });
  const source: TokenizerSource = {
    tokenizerJson: {
      version: '1.0',
      added_tokens: [...SPECIALS, ...controls].map((content) => ({
        id: vocab[content] as number,
        content,
        special: true,
        normalized: false,
        lstrip: false,
        rstrip: false,
        single_word: false,
      })),
      normalizer: null,
      pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: null,
      decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: { type: 'BPE', unk_token: null, vocab, merges: [] },
    },
    config: {
      bosToken: '<|endoftext|>',
      eosToken: '<|im_end|>',
      unkToken: null,
      padToken: null,
      addBos: false,
      addEos: false,
      cleanUpTokenizationSpaces: false,
    },
    tokenizerConfigJson: {},
    origin: 'tokenizer.json',
  };
  return Tokenizer.create(source);
}

/** What the fake model says: the token after `generated` tokens of an answer to `prompt`. */
export type Script = (prompt: Int32Array, generated: number, seed: bigint) => number | 'nan';

/** Says a text, then ends. */
export const says = (text: string): Script => {
  const bytes = Buffer.from(text);
  return (_prompt, generated) => (generated < bytes.length ? byteId(bytes[generated] as number) : EOS);
};

/** Lower-case letters and spaces for ever, drawn from the prompt, the position and the seed. */
export const babbles: Script = (prompt, generated, seed) => {
  let hash = Number(BigInt.asUintN(31, seed));
  for (const id of prompt) hash = (Math.imul(hash, 31) + id) | 0;
  hash = Math.imul(hash ^ (generated * 2654435761), 1540483477) >>> 0;
  const letter = (hash >>> 8) % 27;
  return byteId(letter === 26 ? 32 : 97 + letter);
};

interface Slot {
  /** Follows the constraint, where there is one. */
  matcher: NativeMatcher | null;
  params: SamplingParams;
  prompt: Int32Array;
  generated: number;
}

/** What the fake model's hidden state is: the sum of the ids, their number, the last id and a constant. */
export function pooledState(prompt: Int32Array, pooling: 'mean' | 'last'): Float32Array {
  const last = prompt.at(-1) as number;
  if (pooling === 'last') return Float32Array.of(last, 1, last, 1);
  const sum = prompt.reduce((a, b) => a + b, 0);
  return Float32Array.of(sum / prompt.length, 1, last / prompt.length, 1);
}

/** A model without arithmetic: scripted tokens, log-probabilities that can be checked, steps that can be slowed. */
export class FakeRunner implements ModelRunner {
  readonly info: RunnerInfo;
  readonly slots = new Map<number, Slot>();
  /** Milliseconds of a step; a promise holds all steps until it resolves. */
  stepMs = 0;
  hold: Promise<void> | null = null;
  steps = 0;
  closed = false;
  /** Adapters of the slots opened so far; null is the base. */
  readonly opened: (string | null)[] = [];

  constructor(
    public script: Script,
    info: Partial<RunnerInfo> = {},
  ) {
    this.info = {
      vocabSize: VOCAB,
      hiddenSize: 4,
      maxModelLen: 512,
      blockSize: 16,
      numBlocks: 512,
      maxSlots: 8,
      maxBatchedTokens: 256,
      threads: 1,
      device: 'cpu',
      isa: 'fake',
      weightBytes: 1000,
      decodeWeightBytes: 1000,
      denseF32Bytes: 8000,
      sparsity: 0.5,
      formats: { i8: 900, f32: 100 },
      kvType: 'f16',
      kvBytes: 1 << 20,
      kvBytesPerToken: 128,
      loadMs: 1,
      fromCache: false,
      ...info,
    };
  }

  openSlot(
    slot: number,
    params: SamplingParams,
    prompt: Int32Array,
    output: Int32Array,
    adapter?: string,
  ): void {
    this.opened.push(adapter ?? null);
    const matcher = params.constraint
      ? createMatcher(params.constraint.grammar, params.constraint.continuation)
      : null;
    for (const token of output) matcher?.accept(token);
    this.slots.set(slot, { matcher, params, prompt, generated: output.length });
  }

  closeSlot(slot: number): void {
    this.slots.delete(slot);
  }

  async step(record: StepRecord): Promise<StepOutput[]> {
    this.steps++;
    if (this.hold) await this.hold;
    if (this.stepMs > 0) await new Promise((resolve) => setTimeout(resolve, this.stepMs));
    else await new Promise((resolve) => setImmediate(resolve));
    return record.entries.map((entry): StepOutput => {
      const slot = this.slots.get(entry.slot) as Slot;
      const { params, prompt } = slot;
      const output: StepOutput = {
        slot: entry.slot,
        token: -1,
        logprob: 0,
        top: null,
        prompt: null,
        pooled: null,
        error: null,
      };
      const rows = Math.min(entry.tokens.length, prompt.length - 1 - entry.position);
      if (params.promptLogprobs >= 0 && rows > 0) {
        const k = params.promptLogprobs;
        output.prompt = {
          // Position p + 1 has -(p + 1) / 100.
          logprobs: Float32Array.from({ length: rows }, (_, i) => -(entry.position + i + 1) / 100),
          topIds: Int32Array.from(
            { length: rows * k },
            (_, i) => (prompt[entry.position + Math.floor(i / k) + 1] as number) + (i % k),
          ),
          topLogprobs: Float32Array.from(
            { length: rows * k },
            (_, i) => -(entry.position + Math.floor(i / k) + 1) / 100 - (i % k),
          ),
          k,
        };
      }
      if (params.pooling !== 'none' && entry.position + entry.tokens.length === prompt.length)
        output.pooled = pooledState(prompt, params.pooling);
      if (!entry.sample) return output;
      let token = this.script(prompt, slot.generated, params.temperature === 0 ? 0n : params.seed);
      slot.generated++;
      if (slot.matcher !== null && token !== 'nan') {
        token = nearestAllowed(slot.matcher.mask(), token);
        if (!slot.matcher.accept(token)) throw new Error('a mask allowed what its grammar does not');
        if (params.logprobs < 0) {
          output.forced = slot.matcher.forced(16);
          slot.generated += output.forced.length;
        }
      }
      if (token === 'nan') return { ...output, error: 'non_finite_logits' };
      output.token = token;
      if (params.logprobs >= 0) {
        output.logprob = Math.fround(-slot.generated / 10);
        const k = params.logprobs;
        output.top = {
          ids: Int32Array.from({ length: k }, (_, i) => (token + i) % VOCAB),
          logprobs: Float32Array.from({ length: k }, (_, i) => -slot.generated / 10 - i),
        };
      }
      return output;
    });
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

/** What a model that wants to say `token` says under a mask: that, or the next token that is allowed. */
function nearestAllowed(mask: Uint32Array, token: number): number {
  const vocabSize = mask.length * 32;
  for (let i = 0; i < vocabSize; i++) {
    const id = (token + i) % vocabSize;
    if ((((mask[id >> 5] as number) >>> (id & 31)) & 1) === 1) return id;
  }
  throw new Error('a dead end');
}

export interface Fixture {
  app: App;
  runner: FakeRunner;
  engine: Engine;
  service: Service;
  post(
    url: string,
    body: unknown,
    headers?: Record<string, string>,
  ): Promise<{ status: number; json: Json; headers: Record<string, unknown>; text: string }>;
  close(): Promise<void>;
}

export async function serve(
  script: Script,
  options: {
    server?: ServerOptions;
    engine?: Partial<EngineOptions>;
    runner?: Partial<RunnerInfo>;
    kvEvents?: Service['kvEvents'];
    service?: Partial<Service>;
    /** A chat template instead of ChatML; null: none. */
    template?: string | null;
    trustSpecial?: boolean;
    /** Control tokens beside ChatML's. */
    controls?: readonly string[];
  } = {},
): Promise<Fixture> {
  const vocabSize = VOCAB + (options.controls?.length ?? 0);
  const runner = new FakeRunner(script, { vocabSize, ...options.runner });
  const engine = new Engine(runner, {
    maxNumSeqs: 8,
    maxNumBatchedTokens: 256,
    prefixCache: true,
    queueLimit: 64,
    queueTokenLimit: 100_000,
    ...options.engine,
  });
  const tokenizer = byteTokenizer(options.controls);
  const service: Service = {
    engine,
    lifecycle: new Lifecycle(engine.maxNumSeqs + (options.engine?.queueLimit ?? 64)),
    prefixCache: true,
    kvEvents: options.kvEvents,
    version: '0.0.0-test',
    model: {
      names: ['test-model', 'org/alias'],
      tokenizer,
      template:
        options.template === null
          ? null
          : ChatTemplate.create(options.template ?? template, tokenizer, {
              trustSpecial: options.trustSpecial ?? false,
            }),
      eosTokenIds: [EOS],
      grammars: new NativeGrammars(() => tokenTable(tokenizer, vocabSize, [EOS])),
      architecture: 'llama',
      created: 1_700_000_000,
    },
    ...options.service,
  };
  const app = await buildApp(service, options.server);
  return {
    app,
    runner,
    engine,
    service,
    async post(url, body, headers = {}) {
      const response = await app.inject({
        method: 'POST',
        url,
        headers: { 'content-type': 'application/json', ...headers },
        payload: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body),
      });
      let json: unknown = null;
      try {
        json = response.json();
      } catch {
        // An event stream.
      }
      return { status: response.statusCode, json, headers: response.headers, text: response.body };
    },
    async close() {
      await app.close();
      await engine.close();
    },
  };
}

export const user = (content: string) => [{ role: 'user', content }];

/** Bodies of an event stream; the last must be [DONE] unless an error ended it. */
export function events(text: string): { chunks: Json[]; done: boolean } {
  const datas = text
    .split('\n\n')
    .filter((part) => part !== '')
    .map((part) => {
      if (!part.startsWith('data: ')) throw new Error(`not an event: ${part}`);
      return part.slice(6);
    });
  const done = datas.at(-1) === '[DONE]';
  return { chunks: (done ? datas.slice(0, -1) : datas).map((data) => JSON.parse(data)), done };
}

/** Waits until something holds, or fails. */
export async function until(what: string, holds: () => boolean, ms = 5000): Promise<void> {
  const end = performance.now() + ms;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
