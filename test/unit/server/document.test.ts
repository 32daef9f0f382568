import { afterEach, describe, expect, it } from 'vitest';
import { below } from '../../../src/server/schemas/restrictions.js';
import { type Fixture, type Json, says, serve, user, VOCAB } from './fixture.js';

describe('a pattern of the numbers below a bound', () => {
  it.each([1, 2, 9, 10, 11, 99, 100, 101, 259, 1000, 1024])('takes those and no others: %i', (bound) => {
    const pattern = new RegExp(below(bound), 'u');
    for (let i = 0; i < 1200; i++) {
      expect(pattern.test(String(i)), String(i)).toBe(i < bound);
      expect(pattern.test(`00${i}`), `00${i}`).toBe(i < bound);
    }
    for (const text of ['', '-1', '1.0', ' 1', 'x', '1e0']) expect(pattern.test(text), text).toBe(false);
  });
});

describe('the OpenAPI document', () => {
  let fixture: Fixture;
  afterEach(() => fixture.close());

  it('tells what only this model limits, and what only the code checks', async () => {
    fixture = await serve(says('x'));
    const { body } = await fixture.app.inject({ url: '/openapi.json' });
    expect(body).not.toContain('x-told');
    const schemaOf = (url: string): Json =>
      JSON.parse(body).paths[url].post.requestBody.content['application/json'].schema;
    expect(schemaOf('/detokenize').properties.tokens.items.maximum).toBe(VOCAB - 1);
    expect(schemaOf('/v1/embeddings').properties.dimensions.maximum).toBe(4);
    expect(schemaOf('/v1/completions').properties.max_tokens.maximum).toBe(511);
    const { items } = schemaOf('/v1/chat/completions').properties.messages;
    expect(items.anyOf[1]).toEqual({
      required: ['content'],
      properties: { content: { type: ['string', 'array'] } },
    });
    // The validator leaves it to the code, which says what is meant.
    const image = [{ type: 'image_url', image_url: { url: 'x' } }];
    const { status, json } = await fixture.post('/v1/chat/completions', {
      messages: [{ ...user('')[0], content: image }],
    });
    expect([status, json.error.code, json.error.param]).toEqual([
      400,
      'unsupported_value',
      'messages[0].content[0].type',
    ]);
  });
});
