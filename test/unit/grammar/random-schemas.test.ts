import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { describe, expect, it } from 'vitest';
import { constraintProgram } from '../../../src/grammar/index.js';
import { createMatcher, type NativeGrammars } from '../../../src/native/index.js';
import { Random } from '../server/random.js';
import { hasShared, realTokenizer } from '../tokenizer/fixtures.js';
import { randomRoot } from './random-schemas.js';
import { allows, bytesVocabulary, END, grammarsOf } from './support.js';

/**
 * Random schemas, and texts sampled at random under them: ajv, which knows nothing of grammars, finds every one valid. A text
 * that will not end is steered to its end, as a model would be: closing characters are preferred more and more.
 */
const SCHEMAS = 1000;

interface Vocabulary {
  grammars: NativeGrammars;
  size: number;
  end: number;
  bytes(id: number): Uint8Array;
  /** Tokens that end a string, an array or an object. */
  closing: number[];
}

/** An allowed token: the first at or behind a random place. -1 if there is none. */
function pick(mask: Uint32Array, random: Random): number {
  const size = mask.length * 32;
  const from = random.below(size);
  for (let i = 0; i < size; i++) {
    const id = (from + i) % size;
    if ((id & 31) === 0 && mask[id >> 5] === 0) i += 31;
    else if (allows(mask, id)) return id;
  }
  return -1;
}

function sample(vocabulary: Vocabulary, grammar: object, random: Random): string | null {
  const matcher = createMatcher(grammar);
  const parts: Uint8Array[] = [];
  for (let step = 0; step < 1500; step++) {
    const forced = random.chance(0.3) ? [...matcher.forced(16)] : [];
    for (const id of forced) parts.push(vocabulary.bytes(id));
    const mask = matcher.mask();
    if (allows(mask, vocabulary.end) && (step > 60 || matcher.exhausted || random.chance(0.3)))
      return Buffer.concat(parts).toString();
    const closing = vocabulary.closing.filter((id) => allows(mask, id));
    const id =
      step > 60 && closing.length > 0 && random.chance(0.9) ? random.pick(closing) : pick(mask, random);
    if (id < 0) throw new Error(`a dead end after ${Buffer.concat(parts)}`);
    if (id === vocabulary.end) return Buffer.concat(parts).toString();
    expect(matcher.accept(id)).toBe(true);
    parts.push(vocabulary.bytes(id));
  }
  return null;
}

async function run(vocabulary: Vocabulary, schemas: number, seed: number) {
  const ajv = new Ajv2020({ strict: false, validateFormats: true });
  addFormats.default(ajv);
  let judged = 0;
  let unfinished = 0;
  let refused = 0;
  for (let i = 0; i < schemas; i++) {
    const random = new Random(seed + i);
    const schema = randomRoot(random);
    const validate = ajv.compile(schema);
    let grammar: object;
    try {
      grammar = await vocabulary.grammars.compile(constraintProgram({ kind: 'json', schema }, 'schema'));
    } catch (error) {
      expect((error as Error).message).toMatch(/no text satisfies|not supported|merges|constrains|more than/);
      refused++;
      continue;
    }
    for (let n = 0; n < 2; n++) {
      const text = sample(vocabulary, grammar, random);
      if (text === null) {
        unfinished++;
        continue;
      }
      const valid = validate(JSON.parse(text));
      expect(
        valid,
        `seed ${seed + i}: ${text}\n${JSON.stringify(schema)}\n${ajv.errorsText(validate.errors)}`,
      ).toBe(true);
      judged++;
    }
  }
  return { judged, unfinished, refused };
}

describe('texts sampled under random schemas', () => {
  it('are valid, byte by byte', async () => {
    const { judged, unfinished, refused } = await run(
      {
        grammars: bytesVocabulary,
        size: 257,
        end: END,
        bytes: (id) => (id === END ? new Uint8Array() : Uint8Array.of(id)),
        closing: [...Buffer.from('"]}')],
      },
      SCHEMAS,
      1,
    );
    expect(judged).toBeGreaterThan(SCHEMAS * 1.5);
    expect(unfinished).toBeLessThan(SCHEMAS * 0.1);
    expect(refused).toBeLessThan(SCHEMAS * 0.15);
  }, 120_000);

  it.skipIf(!hasShared)(
    "are valid with a model's tokens (needs ../shared)",
    async () => {
      const tokenizer = realTokenizer('smollm2');
      const { judged } = await run(
        {
          grammars: grammarsOf(tokenizer),
          size: tokenizer.vocabSize,
          end: tokenizer.eosId as number,
          bytes: (id) => tokenizer.tokenBytes(id),
          closing: ['"', ']', '}', '"}', '"]'].map((text) => tokenizer.tokenId(text) as number),
        },
        100,
        100_000,
      );
      expect(judged).toBeGreaterThan(150);
    },
    120_000,
  );
});
