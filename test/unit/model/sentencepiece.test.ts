import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openModel } from '../../../src/model/index.js';
import { readSentencePiece } from '../../../src/model/sentencepiece.js';
import { spmTokenizerJson } from '../../../src/model/spm-tokenizer.js';
import { Tokenizer } from '../../../src/tokenizer/tokenizer.js';
import { ModelFolder, SHARED } from './folder.js';

const TOKENIZERS = join(SHARED, 'data/tokenizers');

interface Json {
  normalizer: unknown;
  decoder: unknown;
  added_tokens: { id: number; content: string; special: boolean }[];
  model: {
    vocab: Record<string, number>;
    merges: (string | [string, string])[];
    byte_fallback: boolean;
    fuse_unk: boolean;
    unk_token: string;
  };
}

describe('a sentencepiece model', () => {
  it("becomes what transformers makes of it, Mistral's tokenizer.json being the witness", (context) => {
    const model = join(TOKENIZERS, 'mistral/tokenizer.model.v1');
    if (!existsSync(model)) return context.skip(`${model} is not here`);
    const theirs = JSON.parse(readFileSync(join(TOKENIZERS, 'mistral-v0.1/tokenizer.json'), 'utf8')) as Json;
    const ours = spmTokenizerJson(readSentencePiece(readFileSync(model)), {
      bos: '<s>',
      eos: null,
    }) as unknown as Json;
    expect(ours.model.vocab).toEqual(theirs.model.vocab);
    const merge = (m: string | [string, string]) => (typeof m === 'string' ? m : m.join(' '));
    expect(ours.model.merges.map(merge)).toEqual(theirs.model.merges.map(merge));
    expect(ours.model).toMatchObject({
      byte_fallback: theirs.model.byte_fallback,
      fuse_unk: theirs.model.fuse_unk,
      unk_token: theirs.model.unk_token,
    });
    expect(ours.normalizer).toEqual(theirs.normalizer);
    expect(ours.decoder).toEqual(theirs.decoder);
    expect(ours.added_tokens.map(({ id, content, special }) => ({ id, content, special }))).toEqual(
      theirs.added_tokens.map(({ id, content, special }) => ({ id, content, special })),
    );
  });

  it('serves as the tokenizer of a folder', async (context) => {
    const model = join(TOKENIZERS, 'llama2/tokenizer.model');
    if (!existsSync(model)) return context.skip(`${model} is not here`);
    using folder = new ModelFolder();
    folder
      .remove('tokenizer.json')
      .remove('tokenizer_config.json')
      .write('tokenizer.model', readFileSync(model));
    const { tokenizer, config } = await openModel(folder.path);
    expect(tokenizer).toMatchObject({
      origin: 'sentencepiece',
      config: { bosToken: '<s>', eosToken: '</s>', addBos: true, addEos: false },
    });
    expect(config.eosTokenIds).toContain(2);
    const encoder = Tokenizer.create(tokenizer);
    expect(encoder.encode('Hello world')).toEqual([1, 15043, 3186]);
    expect(encoder.decode([1, 15043, 3186])).toBe('Hello world');
  });

  it.each<[string, Buffer]>([
    ['an empty file', Buffer.alloc(0)],
    ['text', Buffer.from('this is no model at all')],
    ['a cut', Buffer.from([0x0a, 0x05, 0x0a, 0x03, 0x61])],
    ['an endless number', Buffer.alloc(64, 0xff)],
    ['a piece that is no UTF-8', Buffer.from([0x0a, 0x03, 0x0a, 0x01, 0xff])],
  ])('of %s is refused', (_name, bytes) => {
    expect(() => readSentencePiece(bytes)).toThrow(expect.objectContaining({ code: 'tokenizer_invalid' }));
  });
});
