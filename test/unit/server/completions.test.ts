import { afterEach, describe, expect, it } from 'vitest';
import { babbles, byteId, events, type Fixture, type Json, says, serve } from './fixture.js';

const COMPLETE = '/v1/completions';
const ids = (text: string) => [...Buffer.from(text)].map(byteId);
let fixture: Fixture;
afterEach(async () => {
  fixture.engine.check();
  await fixture.close();
});

describe('text completions', () => {
  it('takes text, token ids, and batches of both', async () => {
    fixture = await serve(babbles);
    const ask = async (prompt: unknown) =>
      (await fixture.post(COMPLETE, { prompt, temperature: 0, max_tokens: 8 })).json.choices.map(
        (c: Json) => c.text,
      );
    const [text] = await ask('abc');
    expect(text).toHaveLength(8);
    expect(await ask(ids('abc'))).toEqual([text]);
    const [first, second] = await ask(['abc', 'xyz']);
    expect(first).toBe(text);
    expect(second).not.toBe(text);
    expect(await ask([ids('abc'), ids('xyz')])).toEqual([first, second]);
  });

  it('numbers the choices of a batch by prompt, then choice', async () => {
    fixture = await serve(babbles);
    const body = { prompt: ['a', 'b'], n: 2, seed: 1, max_tokens: 5 };
    const { json } = await fixture.post(COMPLETE, body);
    expect(json.choices.map((c: Json) => c.index)).toEqual([0, 1, 2, 3]);
    expect(json.usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 20 });
    const alone = await fixture.post(COMPLETE, { ...body, prompt: 'b' });
    expect(alone.json.choices.map((c: Json) => c.text)).toEqual(
      json.choices.slice(2).map((c: Json) => c.text),
    );
  });

  it('serves a batch larger than the queue', async () => {
    fixture = await serve(babbles, { engine: { queueLimit: 2, maxNumSeqs: 2 } });
    const prompt = Array.from({ length: 50 }, (_, i) => `prompt ${i}`);
    const { status, json } = await fixture.post(COMPLETE, { prompt, max_tokens: 3, temperature: 0 });
    expect(status).toBe(200);
    expect(json.choices).toHaveLength(50);
    expect(json.choices.every((c: Json) => c.text.length === 3)).toBe(true);
  });

  it('echoes with log-probabilities as lm-evaluation-harness reads them', async () => {
    fixture = await serve(says('zé'));
    const body = {
      prompt: 'aé<|im_end|>b',
      max_tokens: 1,
      echo: true,
      logprobs: 1,
      temperature: 0,
      seed: 1234,
    };
    const { json } = await fixture.post(COMPLETE, body);
    const [choice] = json.choices;
    const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs;
    expect(choice.text).toBe('aé<|im_end|>bz');
    expect(tokens).toEqual(['a', 'bytes:\\xc3', 'bytes:\\xa9', '<|im_end|>', 'b', 'z']);
    expect(token_logprobs[0]).toBeNull();
    expect(top_logprobs[0]).toBeNull();
    // What the harness sums: all but the context before and the one token after.
    const sum = token_logprobs.slice(1, -1).reduce((a: number, b: number) => a + b, 0);
    expect(sum).toBeCloseTo(-(1 + 2 + 3 + 4) / 100, 5);
    for (let i = 1; i < tokens.length; i++) {
      expect(top_logprobs[i][tokens[i]]).toBeCloseTo(token_logprobs[i], 5);
      expect(Math.max(...(Object.values(top_logprobs[i]) as number[]))).toBe(token_logprobs[i]);
    }
    // Characters before each token; a control token shows none.
    expect(text_offset).toEqual([0, 1, 2, 2, 2, 3]);
  });

  it('scores a prompt alone with max_tokens 0, in chunks too', async () => {
    fixture = await serve(says('z'), { engine: { maxNumBatchedTokens: 16 } });
    const prompt = 'x'.repeat(50);
    const body = { prompt, max_tokens: 0, echo: true, logprobs: 2 };
    const { json } = await fixture.post(COMPLETE, body);
    expect(json.choices[0]).toMatchObject({ text: prompt, finish_reason: 'length' });
    expect(json.choices[0].logprobs.token_logprobs).toHaveLength(50);
    expect(json.choices[0].logprobs.token_logprobs[49]).toBeCloseTo(-0.49);
    expect(json.usage.completion_tokens).toBe(0);
  });

  it('streams what it gives whole, echo and log-probabilities included', async () => {
    fixture = await serve(says('naïve 🌍, end'));
    const body = { prompt: ['ab', 'cd'], echo: true, logprobs: 2, max_tokens: 40, stop: [', e'] };
    const whole = (await fixture.post(COMPLETE, body)).json;
    const { chunks, done } = events((await fixture.post(COMPLETE, { ...body, stream: true })).text);
    expect(done).toBe(true);
    for (const choice of whole.choices) {
      const own = chunks.map((c) => c.choices[0]).filter((c) => c.index === choice.index);
      expect(own.map((c) => c.text).join('')).toBe(choice.text);
      expect(own.at(-1).finish_reason).toBe(choice.finish_reason);
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'])
        expect(own.flatMap((c) => c.logprobs?.[key] ?? [])).toEqual(choice.logprobs[key]);
    }
  });

  it('returns the best of several', async () => {
    // Seeds end in the choice's number: the answers differ in length, and here longer ones are less likely.
    fixture = await serve((_prompt, generated, seed) =>
      generated >= Number(seed % 5n) + 1 ? 2 : byteId(97),
    );
    const { json } = await fixture.post(COMPLETE, { prompt: 'a', best_of: 5, n: 2, seed: 0, max_tokens: 10 });
    expect(json.choices.map((c: Json) => c.text)).toEqual(['a', 'aa']);
    expect(json.choices[0].logprobs).toBeNull();
  });

  it('defaults to 16 tokens, and to what fits near the end of the context', async () => {
    fixture = await serve(babbles, { runner: { maxModelLen: 32 } });
    expect((await fixture.post(COMPLETE, { prompt: 'a' })).json.usage.completion_tokens).toBe(16);
    expect((await fixture.post(COMPLETE, { prompt: 'a'.repeat(30) })).json.usage.completion_tokens).toBe(2);
  });

  it('begins an empty text where the model has a token for that', async () => {
    fixture = await serve(says('ok'));
    const { json } = await fixture.post(COMPLETE, { prompt: '' });
    expect(json.usage.prompt_tokens).toBe(1);
  });

  it("takes the model's recommended sampling where the request says nothing", async () => {
    fixture = await serve(says('ok'));
    fixture.service.model.generation = {
      temperature: 0.2,
      topP: 0.9,
      topK: 20,
      minP: 0.1,
      repetitionPenalty: 1.1,
    };
    const seen: Json[] = [];
    const { openSlot } = fixture.runner;
    fixture.runner.openSlot = (slot, params, ...rest) => {
      seen.push(params);
      openSlot.call(fixture.runner, slot, params, ...rest);
    };
    await fixture.post(COMPLETE, { prompt: 'a' });
    await fixture.post(COMPLETE, {
      prompt: 'a',
      temperature: 1,
      top_p: 1,
      top_k: 0,
      min_p: 0,
      repetition_penalty: 1,
    });
    expect(seen).toMatchObject([
      { temperature: 0.2, topP: 0.9, topK: 20, minP: 0.1, repetitionPenalty: 1.1 },
      { temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1 },
    ]);
  });

  it('hands every sampling parameter to the engine', async () => {
    fixture = await serve(says('ok'));
    let seen: Json;
    const { openSlot } = fixture.runner;
    fixture.runner.openSlot = (slot, params, ...rest) => {
      seen = params;
      openSlot.call(fixture.runner, slot, params, ...rest);
    };
    await fixture.post(COMPLETE, {
      prompt: 'a',
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      min_p: 0.05,
      repetition_penalty: 1.1,
      frequency_penalty: 0.2,
      presence_penalty: -0.3,
      logit_bias: { '5': 2, '7': -100 },
      seed: -1,
      min_tokens: 2,
      stop_token_ids: [9],
      allowed_token_ids: [5, 6, 7],
      bad_words: ['no'],
      logprobs: 3,
    });
    expect(seen).toMatchObject({
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      frequencyPenalty: 0.2,
      presencePenalty: -0.3,
      logitBias: [
        [5, 2],
        [7, -100],
      ],
      seed: 2n ** 64n - 1n,
      minTokens: 2,
      suppressedUntilMin: [2, 9],
      allowedTokenIds: [5, 6, 7],
      badWords: [ids('no')],
      logprobs: 3,
      promptLogprobs: -1,
    });
  });
});
