import { describe, expect, it } from 'vitest';
import { TextStream, type Tokenizer } from '../../../src/tokenizer/index.js';
import {
  byteTokenizer,
  hasShared,
  pieceTokenizer,
  random,
  realTokenizer,
  tokenizerFolders,
} from './fixtures.js';

function streamed(
  tokenizer: Tokenizer,
  ids: number[],
  options: Partial<ConstructorParameters<typeof TextStream>[1]> = {},
) {
  const stream = new TextStream(tokenizer, { stop: [], includeStop: false, skipSpecial: true, ...options });
  const pieces: string[] = [];
  for (const id of ids) {
    const { text, stopped } = stream.push(id);
    pieces.push(text);
    if (stopped !== null) return { text: pieces.join(''), pieces, stopped };
  }
  pieces.push(stream.flush());
  return { text: pieces.join(''), pieces, stopped: null };
}

/** What the text should be, computed from the whole: cut at the stop string that ends first. */
function cut(text: string, stops: string[], includeStop: boolean): string {
  for (let end = 1; end <= text.length; end++) {
    const found = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return text.slice(0, includeStop ? end : end - found.length);
  }
  return text;
}

describe('TextStream', () => {
  it('holds back the bytes of an incomplete character', () => {
    const tokenizer = byteTokenizer();
    const ids = tokenizer.encode('a😀b');
    expect(streamed(tokenizer, ids).pieces).toEqual(['a', '', '', '', '😀', 'b', '']);
    expect(streamed(tokenizer, ids.slice(0, 3)).text).toBe('a\ufffd');
  });

  it('holds back the longest tail that may begin a stop string', () => {
    const tokenizer = byteTokenizer();
    const ids = [...'xaabaac'].flatMap((c) => tokenizer.encode(c));
    const { pieces, stopped } = streamed(tokenizer, ids, { stop: ['aac'] });
    expect(pieces).toEqual(['x', '', '', 'aab', '', '', '']);
    expect(stopped).toBe('aac');
    expect(streamed(tokenizer, ids.slice(0, 6), { stop: ['aac'] }).text).toBe('xaabaa');
    expect(streamed(tokenizer, ids, { stop: ['aac'], includeStop: true }).text).toBe('xaabaac');
  });

  it('looks for stop strings only after min tokens', () => {
    const tokenizer = byteTokenizer();
    const ids = [...'abab'].flatMap((c) => tokenizer.encode(c));
    expect(streamed(tokenizer, ids, { stop: ['a'], minTokens: 2 }).text).toBe('ab');
  });

  it('drops the leading space of sentencepiece once, unless the text continues another', () => {
    const tokenizer = pieceTokenizer();
    const ids = tokenizer.encode('ab a b', { addSpecial: false });
    expect(streamed(tokenizer, ids).text).toBe('ab a b');
    expect(streamed(tokenizer, ids, { continuation: true }).text).toBe(' ab a b');
    expect(streamed(tokenizer, [1, ...ids]).text).toBe('ab a b');
  });

  const stops = ['ab', 'b a', 'hello', '�', 'é', '  '];
  it.each([['bytes', byteTokenizer()] as const, ['pieces', pieceTokenizer()] as const])(
    'streams any tokens to the text of all of them: %s',
    (_, tokenizer) => {
      const next = random(42);
      for (let round = 0; round < 2000; round++) {
        const ids = Array.from({ length: 1 + Math.floor(next() * 12) }, () =>
          Math.floor(next() * tokenizer.vocabSize),
        );
        const skipSpecial = next() < 0.5;
        const whole = tokenizer.decode(ids, { skipSpecial });
        expect(streamed(tokenizer, ids, { skipSpecial }).text).toBe(whole);
        const stop = stops.filter(() => next() < 0.3);
        const includeStop = next() < 0.5;
        const { text } = streamed(tokenizer, ids, { skipSpecial, stop, includeStop });
        if (!stop.includes('�')) expect(text).toBe(cut(whole, stop, includeStop));
      }
    },
  );

  it.skipIf(!hasShared).each(Object.keys(tokenizerFolders) as (keyof typeof tokenizerFolders)[])(
    'streams any tokens of %s to the text of all of them',
    (name) => {
      const tokenizer = realTokenizer(name);
      const next = random(7);
      for (let round = 0; round < 300; round++) {
        const ids = Array.from({ length: 20 }, () => Math.floor(next() * tokenizer.vocabSize));
        for (const skipSpecial of [true, false]) {
          expect(streamed(tokenizer, ids, { skipSpecial }).text).toBe(tokenizer.decode(ids, { skipSpecial }));
        }
      }
    },
  );
});
