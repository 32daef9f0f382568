import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ReadableFile } from '../../../src/model/model-file.js';
import { readSafetensors } from '../../../src/model/safetensors.js';
import { ModelFolder, safetensors, withHeader } from './folder.js';

describe('a safetensors file', () => {
  const one = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
  const read = (bytes: Uint8Array) => {
    using folder = new ModelFolder();
    writeFileSync(join(folder.path, 'x.safetensors'), bytes);
    const file = ReadableFile.open(join(folder.path, 'x.safetensors'));
    try {
      return readSafetensors(file, 0).tensors;
    } finally {
      file.close();
    }
  };
  const header = (value: unknown, data = 8) => withHeader(JSON.stringify(value), Buffer.alloc(data));

  it('is read', () => {
    const file = safetensors({
      a: { dtype: 'BF16', shape: [2, 1], bytes: Buffer.alloc(4) },
      b: { dtype: 'I8', shape: [], bytes: Buffer.alloc(1) },
    });
    const tensors = read(file);
    expect(tensors.map(({ name, dtype, shape, bytes }) => [name, dtype, shape, bytes])).toEqual([
      ['a', 'bf16', [2, 1], 4],
      ['b', 'i8', [], 1],
    ]);
    expect(tensors[1]?.offset).toBe(file.length - 1);
  });

  it.each<[string, Buffer, RegExp]>([
    ['an empty file', Buffer.alloc(0), /too short/],
    ['a huge header', Buffer.from([255, 255, 255, 255, 255, 255, 255, 127, 0]), /header claims/],
    ['a header of bad UTF-8', withHeader('', Buffer.alloc(0)).fill(2, 0, 1), /header claims/],
    ['a header that is no JSON', withHeader('{"a":', Buffer.alloc(0)), /not valid JSON/],
    ['a header that is a list', withHeader('[]', Buffer.alloc(0)), /JSON object/],
    [
      'a name twice',
      withHeader(`{"a":${JSON.stringify(one)},"a":${JSON.stringify(one)}}`, Buffer.alloc(8)),
      /lists "a" twice/,
    ],
    [
      'an escaped name twice',
      withHeader(`{"a":${JSON.stringify(one)},"\\u0061":${JSON.stringify(one)}}`, Buffer.alloc(8)),
      /twice/,
    ],
    ['data that is cut off', header({ a: one }, 7), /truncated/],
    ['data left over', header({ a: one }, 9), /belong to no tensor/],
    ['overlapping tensors', header({ a: one, b: { ...one, data_offsets: [4, 12] } }, 12), /overlaps/],
    ['a gap', header({ a: one, b: { ...one, data_offsets: [12, 20] } }, 20), /gap/],
    [
      'a shape of another size',
      header({ a: { ...one, shape: [3] } }),
      /is 12 bytes, its data_offsets span 8/,
    ],
    ['a shape that overflows', header({ a: { ...one, shape: [2 ** 40, 2 ** 40] } }), /data_offsets span/],
    ['a negative dimension', header({ a: { ...one, shape: [-2] } }), /no proper shape/],
    ['offsets the wrong way', header({ a: { ...one, data_offsets: [8, 0] } }), /reaches to/],
    ['offsets of another kind', header({ a: { ...one, data_offsets: '0,8' } }), /data_offsets/],
    ['an unknown dtype', header({ a: { ...one, dtype: 'F4' } }), /dtype F4/],
    ['a dtype named like a method', header({ a: { ...one, dtype: 'constructor' } }), /dtype constructor/],
    ['a tensor that is a number', header({ a: 5 }), /not described/],
  ])('with %s is refused', (_name, bytes, message) => {
    expect(() => read(bytes)).toThrow(
      expect.objectContaining({ name: 'FiligreeError', message: expect.stringMatching(message) }),
    );
  });
});
