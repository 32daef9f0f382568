import { describe, expect, it } from 'vitest';
import { rollingParts, windowNlls } from '../../../src/eval/index.js';
import { encodePair, likelihoods } from '../../../src/eval/score.js';
import { promptLogprob } from '../engine/fake-runner.js';
import { byteId, EOS } from '../server/fixture.js';
import { fakeModel } from './fixture.js';

const ids = (text: string) => [...Buffer.from(text)].map(byteId);

/** What the fake model says of tokens [from ..] of a sequence. */
function expected(tokens: number[], from: number): number {
  const all = Int32Array.from(tokens);
  let sum = 0;
  for (let i = from; i < all.length; i++) sum += Math.fround(promptLogprob(all, i - 1));
  return sum;
}

describe('a context and its continuation', () => {
  const { model } = fakeModel();
  it('give spaces at the end of the context to the continuation', () => {
    const { context, continuation } = encodePair(model, { context: 'Answer: ', continuation: 'yes' });
    expect(context).toEqual(ids('Answer:'));
    expect(continuation).toEqual(ids(' yes'));
  });
  it('begin with the token that begins or ends a text where there is no context', () => {
    const begin = model.tokenizer.bosId ?? EOS;
    expect(encodePair(model, { context: '', continuation: 'ab' })).toEqual({
      context: [begin],
      continuation: ids('ab'),
    });
  });
});

describe('likelihoods', () => {
  it('are those of the continuation alone, in the order asked, and of any context length', async () => {
    const { model } = fakeModel();
    const requests = ['x', 'a longer context than one block', 'a longer context than two blocks of sixteen']
      .flatMap((context) => [' yes', ' no', ' perhaps so'].map((continuation) => ({ context, continuation })))
      .map((pair) => encodePair(model, pair));
    const scores = await likelihoods(model, requests);
    expect(scores.map(({ logprob }) => logprob)).toEqual(
      requests.map(({ context, continuation }) => expected([...context, ...continuation], context.length)),
    );
  });

  it('compute a shared context once', async () => {
    const { model, runner } = fakeModel();
    const context = ids('c'.repeat(97));
    const requests = [1, 2, 3, 4].map((i) => ({ context, continuation: ids(`${i} end`) }));
    await likelihoods(model, requests);
    // 97 tokens of context and 5 of continuation once; then only what stands behind the last whole block of the context.
    expect(runner.computedTokens).toBe(102 + 3 * (102 - 96));
  });

  it('of what is longer than the model keep its end', async () => {
    const { model } = fakeModel({ maxModelLen: 40 });
    const request = { context: ids('c'.repeat(50)), continuation: ids('the end') };
    const [score] = await likelihoods(model, [request]);
    const kept = [...request.context, ...request.continuation].slice(-40);
    expect(score?.logprob).toBe(expected(kept, 33));
  });

  it('stop at the first failure', async () => {
    const { model } = fakeModel({ poison: byteId(33) });
    const bad = [{ context: ids('a'), continuation: ids('b!') }];
    await expect(likelihoods(model, bad)).rejects.toThrow('not finite');
  });

  it('tell whether greedy decoding would have written it', async () => {
    const { model } = fakeModel();
    // The fake names token 0 as the likeliest everywhere.
    const scores = await likelihoods(
      model,
      [
        { context: ids('a'), continuation: [0, 0] },
        { context: ids('a'), continuation: [0, 5] },
      ],
      { greedy: true },
    );
    expect(scores.map(({ greedy }) => greedy)).toEqual([true, false]);
  });
});

describe('perplexity', () => {
  it('takes whole windows without overlap, each first token unpredicted', async () => {
    const { model } = fakeModel();
    const text = ids('abcdefghijklmnopqrstuvwxyz');
    const nlls = await windowNlls(model, text, { window: 8 });
    expect(nlls).toEqual([0, 8, 16].map((at) => -expected(text.slice(at, at + 8), 1) / 7));
    expect(await windowNlls(model, text, { window: 8, limit: 2 })).toHaveLength(2);
  });

  it('of a long text predicts every token once, each part with all the context that fits', () => {
    const { model } = fakeModel({ maxModelLen: 11 });
    const text = Array.from({ length: 23 }, (_, i) => i);
    const parts = rollingParts(model, text);
    expect(parts.flatMap(({ continuation }) => continuation)).toEqual(text);
    expect(parts.map(({ context }) => context.length)).toEqual([1, 1, 8]);
    for (const { context, continuation } of parts)
      expect(context.length + continuation.length).toBeLessThanOrEqual(11);
    expect(parts[2]).toEqual({ context: text.slice(12, 20), continuation: text.slice(20) });
  });
});
