import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FiligreeError } from '../../src/errors.js';
import { openModel } from '../../src/model/index.js';
import { ReadableFile } from '../../src/model/model-file.js';
import { readSentencePiece } from '../../src/model/sentencepiece.js';
import { spmTokenizerJson } from '../../src/model/spm-tokenizer.js';
import { countZeros } from '../../src/model/zeros.js';
import { MODELS, ModelFolder } from '../unit/model/folder.js';

/** splitmix32: the same mutations every time. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return Math.floor((((z ^ (z >>> 15)) >>> 0) / 2 ** 32) * below);
  };
}

type Pick = ReturnType<typeof random>;

/** Flips, overwrites, cuts, doubles and grows; `reach` bytes from the front are hit most. */
function spoil(source: Buffer, pick: Pick, reach: number): Buffer {
  let bytes: Buffer = Buffer.from(source);
  for (let n = 1 + pick(3); n > 0 && bytes.length > 0; n--) {
    const at = pick(Math.min(reach, bytes.length));
    switch (pick(6)) {
      case 0:
        bytes[at] = (bytes[at] as number) ^ (1 << pick(8));
        break;
      case 1:
        bytes[at] = pick(256);
        break;
      case 2:
        bytes.fill([0, 0xff, 0x7f, 0x22][pick(4)] as number, at, Math.min(bytes.length, at + 1 + pick(8)));
        break;
      case 3:
        bytes = bytes.subarray(0, pick(4) === 0 ? pick(bytes.length) : at);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + pick(40)), bytes.subarray(at)]);
        break;
      default:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + pick(16))]);
    }
  }
  return bytes;
}

const ODD = [
  null,
  true,
  0,
  -1,
  1,
  3,
  1.5,
  2 ** 31,
  2 ** 53,
  1e308,
  '',
  'x',
  '__proto__',
  [],
  [1],
  {},
  { a: 1 },
  [[]],
];

/** Replaces, removes or adds one value somewhere in a JSON document. */
function spoilJson(source: unknown, pick: Pick): unknown {
  const copy = structuredClone(source);
  let at = copy as Record<string, unknown>;
  for (;;) {
    const keys = Object.keys(at);
    if (keys.length === 0) break;
    const key = keys[pick(keys.length)] as string;
    const child = at[key];
    if (typeof child === 'object' && child !== null && pick(3) > 0) {
      at = child as Record<string, unknown>;
      continue;
    }
    if (pick(5) === 0) delete at[key];
    else at[pick(6) === 0 ? `${key}x` : key] = ODD[pick(ODD.length)];
    break;
  }
  return copy;
}

class Outcomes {
  refused = 0;
  opened = 0;

  async of(attempt: () => unknown, what: () => string): Promise<void> {
    const started = performance.now();
    try {
      await attempt();
      this.opened++;
    } catch (error) {
      if (!(error instanceof FiligreeError))
        throw new Error(`not one of our errors, at ${what()}`, { cause: error });
      expect(error.message.length, error.message).toBeLessThan(2000);
      this.refused++;
    }
    if (performance.now() - started > 5000)
      throw new Error(`took ${performance.now() - started} ms, at ${what()}`);
  }
}

/** Opens a model and reads it through, as `inspect` does. */
async function openAndRead(path: string): Promise<void> {
  const manifest = await openModel(path);
  const files = manifest.files.map((file) => ReadableFile.open(file.path));
  try {
    for (const tensor of manifest.tensors) await countZeros(tensor, files);
  } finally {
    for (const file of files) file.close();
  }
}

describe('damaged files are refused or read, never worse', () => {
  it('GGUF, 4000 times', async () => {
    const good = readFileSync(join(MODELS, 'tiny.gguf'));
    const path = join(tmpdir(), `filigree-fuzz-${process.pid}.gguf`);
    const pick = random(1);
    const outcomes = new Outcomes();
    for (let i = 0; i < 4000; i++) {
      writeFileSync(path, spoil(good, pick, 3200));
      await outcomes.of(
        () => openAndRead(path),
        () => `mutation ${i}`,
      );
    }
    rmSync(path);
    expect(outcomes.refused).toBeGreaterThan(1500);
    expect(outcomes.opened).toBeGreaterThan(100);
  });

  it('safetensors, 2000 times', async () => {
    using folder = new ModelFolder();
    const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
    const good = shards.map((name) => readFileSync(folder.file(name)));
    const pick = random(2);
    const outcomes = new Outcomes();
    for (let i = 0; i < 2000; i++) {
      const which = pick(2);
      folder.write(shards[which] as string, spoil(good[which] as Buffer, pick, 2200));
      await outcomes.of(
        () => openAndRead(folder.path),
        () => `mutation ${i}`,
      );
      folder.write(shards[which] as string, good[which] as Buffer);
    }
    expect(outcomes.refused).toBeGreaterThan(1000);
    expect(outcomes.opened).toBeGreaterThan(20);
  });

  it.each(['config.json', 'model.safetensors.index.json', 'tokenizer.json', 'tokenizer_config.json'])(
    '%s, 1500 times',
    async (name) => {
      using folder = new ModelFolder();
      const text = readFileSync(folder.file(name));
      let good: unknown = JSON.parse(text.toString());
      if (name === 'config.json') {
        const scaling = { rope_type: 'yarn', factor: 2, original_max_position_embeddings: 64 };
        const groups = {
          g: { targets: ['Linear'], weights: { num_bits: 8, type: 'int', group_size: null } },
        };
        good = {
          ...(good as object),
          rope_scaling: scaling,
          quantization_config: { quant_method: 'compressed-tensors', config_groups: groups },
        };
      }
      if (name === 'tokenizer_config.json')
        good = {
          ...(good as object),
          add_bos_token: false,
          chat_template: [{ name: 'default', template: 'x' }],
        };
      if (name === 'tokenizer_config.json') folder.remove('chat_template.jinja');
      const pick = random(name.length);
      const outcomes = new Outcomes();
      for (let i = 0; i < 1500; i++) {
        const raw = pick(4) === 0;
        folder.write(name, raw ? spoil(text, pick, text.length) : JSON.stringify(spoilJson(good, pick)));
        await outcomes.of(
          () => openModel(folder.path),
          () => `mutation ${i}: ${readFileSync(folder.file(name), 'utf8').slice(0, 2000)}`,
        );
      }
      expect(outcomes.refused).toBeGreaterThan(100);
      expect(outcomes.opened).toBeGreaterThan(10);
    },
  );

  it('sentencepiece, 5000 times', async () => {
    const piece = (text: string, score: number, kind: number) => {
      const body = Buffer.concat([
        Buffer.from([0x0a, Buffer.byteLength(text)]),
        Buffer.from(text),
        Buffer.from([0x15, 0, 0, 0, 0, 0x18, kind]),
      ]);
      body.writeFloatLE(score, body.length - 6);
      return Buffer.concat([Buffer.from([0x0a, body.length]), body]);
    };
    const good = Buffer.concat([
      ...[piece('<unk>', 0, 2), piece('<s>', 0, 3), piece('</s>', 0, 3), piece('<0x0A>', 0, 6)],
      ...['▁', 'a', 'b', 'ab', '▁ab'].map((text, i) => piece(text, -i, 1)),
      Buffer.from([0x12, 5, 0x18, 2, 0x98, 0x02, 1]),
      Buffer.from([0x1a, 2, 0x18, 1]),
    ]);
    const convert = (bytes: Buffer) => spmTokenizerJson(readSentencePiece(bytes), { bos: '<s>', eos: null });
    expect(convert(good)).toMatchObject({
      model: {
        merges: [
          ['a', 'b'],
          ['▁', 'ab'],
        ],
        byte_fallback: true,
      },
    });
    const pick = random(5);
    const outcomes = new Outcomes();
    for (let i = 0; i < 5000; i++)
      await outcomes.of(
        () => convert(spoil(good, pick, good.length)),
        () => `mutation ${i}`,
      );
    expect(outcomes.refused).toBeGreaterThan(1000);
    expect(outcomes.opened).toBeGreaterThan(100);
  });
});
