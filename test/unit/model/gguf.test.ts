import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { gguf } from '@huggingface/gguf';
import { describe, expect, it } from 'vitest';
import { readGgufSampling } from '../../../src/model/generation-defaults.js';
import { type Gguf, type GgufValue, readGguf } from '../../../src/model/gguf.js';
import { GgufFields } from '../../../src/model/gguf-fields.js';
import { readGgufTokenizer } from '../../../src/model/gguf-tokenizer.js';
import { openModel } from '../../../src/model/index.js';
import { ReadableFile } from '../../../src/model/model-file.js';
import { Tokenizer } from '../../../src/tokenizer/tokenizer.js';
import { MODELS, SHARED } from './folder.js';

const TINY = join(MODELS, 'tiny.gguf');
const CACHE = process.env.FILIGREE_CACHE ?? join(homedir(), '.cache', 'filigree');
const SMOLLM2 = join(CACHE, 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf');
const VOCABULARIES = join(SHARED, 'data/tokenizers/gguf-vocab');

function parse(path: string): Gguf {
  const file = ReadableFile.open(path);
  try {
    return readGguf(file);
  } finally {
    file.close();
  }
}

function parseBytes(bytes: Uint8Array): Gguf {
  const path = join(tmpdir(), `filigree-${process.pid}-${Math.random()}.gguf`);
  writeFileSync(path, bytes);
  try {
    return parse(path);
  } finally {
    rmSync(path);
  }
}

/** Writes GGUF: enough to lie with. */
class Writer {
  private readonly parts: Buffer[] = [];

  constructor(tensors: number | bigint, entries: number | bigint, version = 3) {
    this.parts.push(Buffer.from('GGUF'));
    this.u32(version).u64(tensors).u64(entries);
  }
  u32(n: number): this {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(n);
    this.parts.push(b);
    return this;
  }
  u64(n: number | bigint): this {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(n));
    this.parts.push(b);
    return this;
  }
  text(s: string): this {
    this.u64(Buffer.byteLength(s)).parts.push(Buffer.from(s));
    return this;
  }
  tensor(name: string, dims: number[], type: number, offset: number): this {
    this.text(name).u32(dims.length);
    for (const d of dims) this.u64(d);
    return this.u32(type).u64(offset);
  }
  done(data = 0): Buffer {
    const header = Buffer.concat(this.parts);
    return Buffer.concat([header, Buffer.alloc(Math.ceil(header.length / 32) * 32 - header.length + data)]);
  }
}

const normal = (value: unknown): unknown => {
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number | bigint>, Number);
  return typeof value === 'bigint' ? Number(value) : value;
};

describe('the header', () => {
  it.for([TINY, SMOLLM2])('of %s is what @huggingface/gguf reads', async (path, context) => {
    if (!existsSync(path)) return context.skip(`${path} is not here`);
    const ours = parse(path);
    const theirs = await gguf(path, { allowLocalFile: true });
    const metadata = Object.entries(theirs.metadata).filter(
      ([key]) => !['version', 'tensor_count', 'kv_count'].includes(key),
    );
    expect(ours.metadata.size).toBe(metadata.length);
    for (const [key, value] of metadata) expect(normal(ours.metadata.get(key)), key).toEqual(normal(value));
    expect(ours.tensors.length).toBe(theirs.tensorInfos.length);
    const start = Number(theirs.tensorDataOffset);
    for (const [i, info] of theirs.tensorInfos.entries()) {
      expect(ours.tensors[i]).toMatchObject({
        name: info.name,
        shape: info.shape.map(Number).reverse(),
        offset: start + Number(info.offset),
      });
    }
  });

  const good = () => new Writer(1, 1).text('a').u32(4).u32(7).tensor('t', [32, 2], 8, 0);

  it('is read', () => {
    expect(parseBytes(good().done(68))).toMatchObject({
      tensors: [{ name: 't', shape: [2, 32], type: 'q8_0', bytes: 68 }],
    });
  });

  it.each<[string, Buffer, RegExp]>([
    ['nothing', Buffer.alloc(0), /does not begin like a GGUF/],
    ['another magic', Buffer.alloc(64), /does not begin like a GGUF/],
    ['version 1', new Writer(0, 0, 1).done(), /version 1/],
    ['big-endian', new Writer(0, 0, 0x03000000).done(), /big-endian/],
    ['a billion tensors', new Writer(2n ** 60n, 0).done(), /number of tensors/],
    ['a million billion entries', new Writer(0, 2n ** 40n).done(), /metadata entries/],
    ['a text without end', new Writer(0, 1).u64(2 ** 45).done(), /claims/],
    [
      'a list without end',
      new Writer(0, 1)
        .text('a')
        .u32(9)
        .u32(4)
        .u64(2 ** 40)
        .done(),
      /more than the file holds/,
    ],
    [
      'a list of texts without end',
      new Writer(0, 1)
        .text('a')
        .u32(9)
        .u32(8)
        .u64(2 ** 40)
        .done(),
      /more than the file holds/,
    ],
    [
      'lists within lists',
      [...Array(9)].reduce((w: Writer) => w.u32(9).u64(1), new Writer(0, 1).text('a').u32(9)).done(500),
      /nested too deeply/,
    ],
    ['an unknown value type', new Writer(0, 1).text('a').u32(77).done(), /unknown type 77/],
    ['a key twice', new Writer(0, 2).text('a').u32(4).u32(1).text('a').u32(4).u32(1).done(), /twice/],
    ['data that is cut off', good().done(67), /reaches to byte/],
    ['an offset beyond the file', new Writer(1, 0).tensor('t', [32], 8, 2 ** 50).done(64), /reaches to byte/],
    ['an unaligned offset', new Writer(1, 0).tensor('t', [32], 8, 3).done(64), /not aligned/],
    [
      'overlapping tensors',
      new Writer(2, 0).tensor('t', [64], 8, 0).tensor('u', [32], 8, 32).done(200),
      /overlap/,
    ],
    ['a tensor twice', new Writer(2, 0).tensor('t', [32], 8, 0).tensor('t', [32], 8, 64).done(200), /twice/],
    [
      'rows that are no whole blocks',
      new Writer(1, 0).tensor('t', [33], 8, 0).done(64),
      /not whole q8_0 blocks/,
    ],
    ['an unknown tensor type', new Writer(1, 0).tensor('t', [32], 99, 0).done(64), /unknown type 99/],
    [
      'dimensions that overflow',
      new Writer(1, 0).tensor('t', [2 ** 40, 2 ** 40], 0, 0).done(64),
      /shape|bytes/,
    ],
    ['no dimensions', new Writer(1, 0).tensor('t', [], 0, 0).done(64), /0 dimensions/],
    ['an alignment of 3', new Writer(0, 1).text('general.alignment').u32(4).u32(3).done(), /power of two/],
  ])('with %s is refused', (_name, bytes, message) => {
    expect(() => parseBytes(bytes)).toThrow(
      expect.objectContaining({ name: 'FiligreeError', message: expect.stringMatching(message) }),
    );
  });
});

describe('a model', () => {
  it('has the facts of SmolLM2', async (context) => {
    if (!existsSync(SMOLLM2)) return context.skip(`${SMOLLM2} is not here`);
    const { config, tensors, sourceClass, problems } = await openModel(SMOLLM2);
    expect(config).toEqual({
      architecture: 'llama',
      hiddenSize: 576,
      intermediateSize: 1536,
      numLayers: 30,
      numHeads: 9,
      numKvHeads: 3,
      headDim: 64,
      vocabSize: 49152,
      maxPositionEmbeddings: 8192,
      rmsNormEps: 1e-5,
      ropeTheta: 100000,
      ropeScaling: { kind: 'none', factor: 1 },
      slidingWindow: null,
      tieWordEmbeddings: true,
      qkvBias: false,
      bosTokenId: 1,
      eosTokenIds: [2, 0],
    });
    expect(tensors).toHaveLength(272);
    expect(sourceClass).toBe('4bit');
    expect(problems).toEqual([]);
    expect(tensors.filter((t) => t.permutedHeads !== undefined)).toHaveLength(60);
  });

  it('recommends sampling where its metadata does', () => {
    const problems: string[] = [];
    const metadata = new Map<string, GgufValue>([
      ['general.sampling.temp', Math.fround(0.7)],
      ['general.sampling.top_k', 20],
      ['general.sampling.top_p', 1.5],
    ]);
    expect(readGgufSampling(metadata, problems)).toEqual({ temperature: 0.7, topK: 20 });
    expect(problems).toEqual(['general.sampling.top_p must be a number from 0 to 1 and was ignored']);
  });

  it('of qwen2 keeps its rows and has biases', async (context) => {
    const path = join(CACHE, 'models', 'qwen2.5-coder-1.5b-instruct-q4_k_m.gguf');
    if (!existsSync(path)) return context.skip(`${path} is not here`);
    const { config, tensors, chatTemplate } = await openModel(path);
    expect(config).toMatchObject({
      architecture: 'qwen2',
      qkvBias: true,
      tieWordEmbeddings: false,
      numKvHeads: 2,
      ropeTheta: 1e6,
    });
    expect(tensors.some((t) => t.permutedHeads !== undefined)).toBe(false);
    expect(chatTemplate).toContain('<tool_call>');
  });

  it('turns rope_freqs into explicit factors', async () => {
    const { config } = await openModel(TINY);
    const factors = [1, 1, 2, 8];
    expect(config.ropeScaling).toEqual({
      kind: 'longrope',
      factor: 1,
      originalMaxPosition: 128,
      attentionFactor: 1,
      shortFactor: factors,
      longFactor: factors,
    });
  });
});

describe('the tokenizer', () => {
  const metadata = (entries: Record<string, GgufValue>) =>
    new GgufFields(new Map(Object.entries(entries)), 'x.gguf');
  const base = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.tokens': ['a', 'b', 'ab'],
    'tokenizer.ggml.merges': ['a b'],
  };

  it.each<[string, Record<string, GgufValue>, RegExp]>([
    ['an unknown cut', { ...base, 'tokenizer.ggml.pre': 'martian' }, /martian.*known are/s],
    ['an unknown kind', { ...base, 'tokenizer.ggml.model': 't5' }, /t5/],
    ['no merges', { ...base, 'tokenizer.ggml.merges': 5 }, /merges must be a list of texts/],
    ['a merge of one', { ...base, 'tokenizer.ggml.merges': ['ab'] }, /not two tokens/],
    [
      'types of another length',
      { ...base, 'tokenizer.ggml.token_type': new Int32Array(2) },
      /list of 3 numbers/,
    ],
    ['sentencepiece without scores', { ...base, 'tokenizer.ggml.model': 'llama' }, /no scores/],
  ])('with %s is refused', (_name, entries, message) => {
    expect(() => readGgufTokenizer(metadata(entries), [])).toThrow(message);
  });

  it('drops merges and names what is odd', () => {
    const problems: string[] = [];
    const entries = {
      ...base,
      'tokenizer.ggml.pre': 'gpt-2',
      'tokenizer.ggml.merges': ['a b', 'b z'],
      'tokenizer.ggml.eos_token_id': 9,
    };
    const { tokenizerJson, config } = readGgufTokenizer(metadata(entries), problems);
    expect((tokenizerJson.model as { merges: unknown[] }).merges).toEqual([['a', 'b']]);
    expect(config.eosToken).toBeNull();
    expect(problems.join('\n')).toMatch(/eos_token_id 9.*1 merges name/s);
  });

  it('of SmolLM2 cuts digits before the byte-level regex', async (context) => {
    if (!existsSync(SMOLLM2)) return context.skip(`${SMOLLM2} is not here`);
    const tokenizer = Tokenizer.create((await openModel(SMOLLM2)).tokenizer);
    expect(tokenizer.encode('    2', { addSpecial: false })).toEqual([289, 34]);
  });

  const vectors = join(SHARED, 'data/vectors/llama.cpp');
  const cases = (name: string): { text: string; ids: number[] }[] => {
    const texts = readFileSync(join(vectors, `${name}.inp`), 'utf8').split('\n__ggml_vocab_test__\n');
    const ids = readFileSync(join(vectors, `${name}.out`), 'utf8').split('\n');
    return texts
      .slice(0, -1)
      .map((text, i) => ({ text, ids: (ids[i] ?? '').trim().split(/\s+/).filter(Boolean).map(Number) }));
  };

  it("of sentencepiece kind gives llama.cpp's ids", (context) => {
    const path = join(VOCABULARIES, 'ggml-vocab-llama-spm.gguf');
    if (!existsSync(path)) return context.skip(`${path} is not here`);
    const tokenizer = Tokenizer.create(readGgufTokenizer(new GgufFields(parse(path).metadata, 'spm'), []));
    const all = cases('ggml-vocab-llama-spm.gguf');
    expect(all.length).toBeGreaterThan(30);
    for (const { text, ids } of all)
      expect(
        tokenizer.encode(text, { addSpecial: false, parseSpecial: false }),
        JSON.stringify(text),
      ).toEqual(ids);
  });

  it.for(['gpt-2', 'starcoder'])('of %s turns text into tokens and back', (name, context) => {
    const path = join(VOCABULARIES, `ggml-vocab-${name}.gguf`);
    if (!existsSync(path)) return context.skip(`${path} is not here`);
    const tokenizer = Tokenizer.create(readGgufTokenizer(new GgufFields(parse(path).metadata, name), []));
    for (const { text } of cases('ggml-vocab-llama-bpe.gguf'))
      expect(tokenizer.decode(tokenizer.encode(text, { parseSpecial: false }))).toBe(text);
    if (name === 'gpt-2') expect(tokenizer.encode('Hello world 2024')).toEqual([15496, 995, 48609]);
  });
});
