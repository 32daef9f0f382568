import { describe, expect, it } from 'vitest';
import { type ConstraintSpec, constraintProgram, tokenTable } from '../../../src/grammar/index.js';
import { createMatcher } from '../../../src/native/index.js';
import { Random } from '../server/random.js';
import { hasShared, realTokenizer } from '../tokenizer/fixtures.js';
import { allows, grammarsOf } from './support.js';

/**
 * A mask says at once what reading every token of the vocabulary byte by byte says: for several vocabularies, kinds of
 * constraint, and positions reached by random choices among what the mask allows.
 */
const constraints: [string, ConstraintSpec][] = [
  ['any object', { kind: 'json_object' }],
  [
    'a schema',
    {
      kind: 'json',
      schema: {
        type: 'object',
        properties: {
          name: { type: 'string', maxLength: 7 },
          note: { type: 'string' },
          age: { type: 'integer', minimum: -5, maximum: 130 },
          mail: { type: 'string', format: 'email' },
          list: { type: 'array', items: { anyOf: [{ type: 'null' }, { $ref: '#' }] }, maxItems: 3 },
        },
        required: ['note', 'age'],
        patternProperties: { '^x-': { type: 'boolean' } },
        additionalProperties: { type: 'number' },
      },
    },
  ],
  ['a regular expression', { kind: 'regex', pattern: '(?:[a-z]+é?|"\\\\d{2,40}|.{3,9}\\n)*[A-Z]?' }],
  ['choices', { kind: 'choice', choices: ['yes', 'yes, but', 'no', 'naïve 🌍', ' lead'] }],
  [
    'a recursive grammar',
    {
      kind: 'grammar',
      source:
        'root ::= expr\nexpr ::= term (("+" | " - ") term)*\nterm ::= [0-9]+ | "(" expr ")" | text\ntext ::= "\'" [^\']* "\'" text?',
    },
  ],
];
const vocabularies = ['llama3.1', 'qwen2.5', 'mistral-v0.1', 'smollm2'] as const;

describe.skipIf(!hasShared)('token masks (need ../shared)', () => {
  it.each(vocabularies)(
    'agree with every token read byte by byte: %s',
    async (name) => {
      const tokenizer = realTokenizer(name);
      const vocabSize = tokenizer.vocabSize + 40;
      const grammars = grammarsOf(tokenizer, vocabSize);
      const random = new Random(7);
      for (const [kind, spec] of constraints) {
        const grammar = await grammars.compile(constraintProgram(spec, 'test'));
        for (let walk = 0; walk < 2; walk++) {
          const matcher = createMatcher(grammar);
          const path: number[] = [];
          for (let position = 0; position < 24; position++) {
            const mask = matcher.mask();
            const allowed: number[] = [];
            for (let id = 0; id < vocabSize; id++) if (allows(mask, id)) allowed.push(id);
            expect(allowed.length, `${kind} ${path}`).toBeGreaterThan(0);
            if (position % 6 === walk) {
              const wrong: number[] = [];
              for (let id = 0; id < vocabSize; id++) {
                if (matcher.probe(id) !== allows(mask, id)) wrong.push(id);
              }
              const shown = wrong.slice(0, 5).map((id) => JSON.stringify(tokenizer.decode([id])));
              expect(shown, `${kind} after ${JSON.stringify(tokenizer.decode(path))}`).toEqual([]);
            }
            const next = random.pick(allowed);
            expect(matcher.accept(next)).toBe(true);
            path.push(next);
            if (next === tokenizer.eosId) break;
          }
        }
      }
    },
    60_000,
  );

  it('have no room for tokens beyond the vocabulary, and none for control tokens', async () => {
    const tokenizer = realTokenizer('qwen2.5');
    const table = await tokenTable(tokenizer, tokenizer.vocabSize + 10, [tokenizer.eosId as number]);
    expect(table.offsets).toHaveLength(tokenizer.vocabSize + 11);
    const grammar = await grammarsOf(tokenizer).compile(
      constraintProgram({ kind: 'regex', pattern: '[^]*' }, 't'),
    );
    const mask = createMatcher(grammar).mask();
    for (const id of table.control) expect(allows(mask, id), String(id)).toBe(id === tokenizer.eosId);
    expect(allows(mask, tokenizer.tokenId('<tool_call>') as number)).toBe(false);
  });
});
