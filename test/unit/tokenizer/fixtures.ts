import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TokenizerSource } from '../../../src/model/manifest.js';
import { Tokenizer } from '../../../src/tokenizer/index.js';

/** Reference data beside the repository; tests that need it skip, visibly, where it is absent. */
export const shared = join(import.meta.dirname, '../../../../shared');
export const hasShared = existsSync(join(shared, 'goldens/dev/chat.json'));

export function sharedText(path: string): string {
  return readFileSync(join(shared, path), 'utf8');
}

export function sharedJson<T>(path: string): T {
  return JSON.parse(sharedText(path)) as T;
}

export function source(
  tokenizerJson: Record<string, unknown>,
  config: Partial<TokenizerSource['config']> = {},
): TokenizerSource {
  return {
    tokenizerJson,
    tokenizerConfigJson: {},
    origin: 'tokenizer.json',
    config: {
      bosToken: null,
      eosToken: null,
      unkToken: null,
      padToken: null,
      addBos: false,
      addEos: false,
      cleanUpTokenizationSpaces: false,
      ...config,
    },
  };
}

export const tokenizerFolders = {
  smollm2: 'models/smollm2-135m-sparse70',
  'llama3.1': 'data/tokenizers/llama3.1',
  'qwen2.5': 'data/tokenizers/qwen2.5',
  'mistral-v0.1': 'data/tokenizers/mistral-v0.1',
};

const special: Record<keyof typeof tokenizerFolders, Partial<TokenizerSource['config']>> = {
  smollm2: { bosToken: '<|im_start|>', eosToken: '<|im_end|>' },
  'llama3.1': { bosToken: '<|begin_of_text|>', eosToken: '<|eot_id|>', addBos: true },
  'qwen2.5': { eosToken: '<|im_end|>' },
  'mistral-v0.1': { bosToken: '<s>', eosToken: '</s>', unkToken: '<unk>', addBos: true },
};

const loaded = new Map<string, Tokenizer>();

export function realTokenizer(name: keyof typeof tokenizerFolders): Tokenizer {
  let tokenizer = loaded.get(name);
  if (tokenizer === undefined) {
    tokenizer = Tokenizer.create(
      source(sharedJson(`${tokenizerFolders[name]}/tokenizer.json`), special[name]),
    );
    loaded.set(name, tokenizer);
  }
  return tokenizer;
}

const BYTES = (() => {
  const characters: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters.push(String.fromCharCode(printable ? byte : next++));
  }
  return characters;
})();

export const CONTROLS = ['<|bos|>', '<|im_start|>', '<|im_end|>'];

/** Byte-level BPE over single bytes and a few merges: control tokens 0 to 2, bytes 3 to 258, merges, one plain added token. */
export function byteTokenizer(config: Partial<TokenizerSource['config']> = {}): Tokenizer {
  const vocab: Record<string, number> = {};
  for (const text of [...CONTROLS, ...BYTES, 'he', 'll', 'hell', 'hello', 'Ġw']) {
    vocab[text] = Object.keys(vocab).length;
  }
  const added = (content: string, id: number, isSpecial: boolean) => ({
    id,
    content,
    special: isSpecial,
    normalized: false,
    lstrip: false,
    rstrip: false,
    single_word: false,
  });
  return Tokenizer.create(
    source(
      {
        added_tokens: [
          ...CONTROLS.map((content, id) => added(content, id, true)),
          added('<tool_call>', Object.keys(vocab).length, false),
        ],
        normalizer: null,
        pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
        post_processor: null,
        decoder: { type: 'ByteLevel' },
        model: { type: 'BPE', vocab, merges: ['h e', 'l l', 'he ll', 'hell o', 'Ġ w'] },
      },
      { bosToken: '<|bos|>', eosToken: '<|im_end|>', ...config },
    ),
  );
}

/** Sentencepiece style, with byte fallback and the space in front. */
export function pieceTokenizer(): Tokenizer {
  const vocab: Record<string, number> = { '<unk>': 0, '<s>': 1, '</s>': 2 };
  for (let byte = 0; byte < 256; byte++) {
    vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`] = 3 + byte;
  }
  for (const piece of ['▁', 'a', 'b', 'c', '▁a', '▁b', 'ab', '▁ab', '▁▁'])
    vocab[piece] = Object.keys(vocab).length;
  const added = (content: string, id: number) => ({ id, content, special: true, normalized: false });
  return Tokenizer.create(
    source(
      {
        added_tokens: [added('<unk>', 0), added('<s>', 1), added('</s>', 2)],
        normalizer: {
          type: 'Sequence',
          normalizers: [
            { type: 'Prepend', prepend: '▁' },
            { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
          ],
        },
        pre_tokenizer: null,
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
          pair: [],
          special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
        },
        decoder: {
          type: 'Sequence',
          decoders: [
            { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
            { type: 'ByteFallback' },
            { type: 'Fuse' },
            { type: 'Strip', content: ' ', start: 1, stop: 0 },
          ],
        },
        model: {
          type: 'BPE',
          byte_fallback: true,
          fuse_unk: true,
          unk_token: '<unk>',
          vocab,
          merges: ['▁ ▁', 'a b', '▁ ab', '▁ a', '▁ b'],
        },
      },
      { bosToken: '<s>', eosToken: '</s>', unkToken: '<unk>', addBos: true },
    ),
  );
}

/** Seeded random numbers in [0, 1). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
