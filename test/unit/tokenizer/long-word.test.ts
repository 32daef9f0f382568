import { Tokenizer as Pipeline } from '@huggingface/tokenizers';
import { describe, expect, it } from 'vitest';
import { Tokenizer } from '../../../src/tokenizer/index.js';
import { mergeLongWord } from '../../../src/tokenizer/long-word.js';
import { random, source } from './fixtures.js';

/** A byte-pair vocabulary over a few letters, its merges drawn at random, so that ranks conflict everywhere. */
function vocabulary(seed: number, merges = 60) {
  const next = random(seed);
  const tokens = ['a', 'b', 'c', 'd', 'é', '👍'];
  const pairs: [string, string][] = [];
  while (pairs.length < merges) {
    const pick = () => tokens[Math.floor(next() * tokens.length)]!;
    const pair: [string, string] = [pick(), pick()];
    if (pair.join('').length > 8 || tokens.includes(pair.join(''))) continue;
    pairs.push(pair);
    tokens.push(pair.join(''));
  }
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: pairs };
}

const word = (seed: number, length: number, letters = ['a', 'b', 'c', 'd', 'é', '👍']) => {
  const next = random(seed);
  return Array.from({ length }, () => letters[Math.floor(next() * letters.length)]).join('');
};

const tokenizerJson = (model: Record<string, unknown>) => ({
  version: '1.0',
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: { type: 'BPE', ...model },
});

describe('Words without a break', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 8])('are merged as the library merges them (vocabulary %i)', (seed) => {
    const json = tokenizerJson(vocabulary(seed));
    const library = new Pipeline(json, {});
    const ours = Tokenizer.create(source(json));
    for (const length of [256, 257, 300, 1000, 3000]) {
      const text = word(seed * 31 + length, length);
      expect(ours.encode(text)).toEqual(library.encode(text).ids);
    }
    const run = 'a'.repeat(2001);
    expect(ours.encode(run)).toEqual(library.encode(run).ids);
  });

  it.each([true, false])('fall back to bytes or to one unknown token (byte fallback: %s)', (byteFallback) => {
    const { vocab, merges } = vocabulary(11);
    const all: Record<string, number> = { ...vocab, '<unk>': Object.keys(vocab).length };
    if (byteFallback)
      for (let byte = 0; byte < 256; byte++)
        all[`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`] = Object.keys(all).length;
    const model = { vocab: all, merges, unk_token: '<unk>', fuse_unk: true, byte_fallback: byteFallback };
    const json = tokenizerJson(model);
    const library = new Pipeline(json, {});
    const ours = Tokenizer.create(source(json));
    for (const letters of [
      ['a', 'b', 'ж'],
      ['ж', '語'],
      ['a', 'ж', 'ж', 'ж'],
    ]) {
      const text = word(5, 700, letters);
      expect(ours.encode(text)).toEqual(library.encode(text).ids);
    }
  });

  it('pause often, however long they are', () => {
    const { merges } = vocabulary(3);
    const ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    const merging = mergeLongWord(word(1, 200_000), {
      rankOf: (left, right) => ranks.get(`${left} ${right}`),
    });
    let pauses = 0;
    while (merging.next().done !== true) pauses++;
    expect(pauses).toBeGreaterThan(100);
  });

  it('leave the event loop its turns: no turn costs much processor time', async () => {
    const tokenizer = Tokenizer.create(source(tokenizerJson(vocabulary(4))));
    const text = word(2, 300_000);
    const once = async () => {
      let running = true;
      let turns = 0;
      let longest = 0;
      const watching = (async () => {
        // Processor time, which the load of a machine does not stretch as it does the time on the wall.
        for (let last = process.cpuUsage(); running; turns++) {
          await new Promise((resolve) => setImmediate(resolve));
          const spent = process.cpuUsage(last);
          last = process.cpuUsage();
          if (turns > 0) longest = Math.max(longest, (spent.user + spent.system) / 1000);
        }
      })();
      const ids = await tokenizer.encodeAsync(text);
      running = false;
      await watching;
      expect(ids).toEqual(tokenizer.encode(text));
      expect(turns).toBeGreaterThan(5);
      return longest;
    };
    // It is the whole process's: a turn in which garbage is collected or code compiled by its other threads costs more, now and then. A
    // word that holds the loop does so each time.
    const longest = [await once(), await once(), await once()];
    expect(Math.min(...longest), `the longest turn of each run: ${longest}`).toBeLessThan(150);
  });
});
