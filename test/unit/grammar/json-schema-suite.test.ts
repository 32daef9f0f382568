import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Grammar } from '../../../src/engine/model-runner.js';
import { FiligreeError } from '../../../src/errors.js';
import { accepts, compiled } from './support.js';

/**
 * The JSON Schema test suite (Debian's json-schema-test-suite): whatever schema we take, we accept all of its valid instances
 * and none of its invalid ones; whatever we do not take, we refuse with an error that says why.
 */
const folder = process.env.FILIGREE_JSON_SCHEMA_SUITE ?? '/usr/share/json-schema-test-suite';
const there = existsSync(join(folder, 'tests', 'draft7'));

interface Case {
  description: string;
  schema: Record<string, unknown> | boolean;
  tests: { description: string; data: unknown; valid: boolean }[];
}

/** Files whose every schema is taken, but for those named here. */
const CLAIMED =
  'additionalItems additionalProperties allOf anyOf boolean_schema const default enum exclusiveMaximum exclusiveMinimum items maxItems maxLength maxProperties maximum minItems minLength minProperties minimum oneOf pattern patternProperties properties propertyNames ref required type'.split(
    ' ',
  );
const OVERLAP = /may both hold/;
const REMOTE = /only references within the schema/;
const REFUSED: Record<string, RegExp> = {
  'ref: remote ref, containing refs itself': REMOTE,
  'ref: Recursive references between schemas': REMOTE,
  'oneOf: oneOf': OVERLAP,
  'oneOf: oneOf with base schema': OVERLAP,
  'oneOf: oneOf with boolean schemas, all true': OVERLAP,
  'oneOf: oneOf with boolean schemas, more than one true': OVERLAP,
  'oneOf: oneOf complex types': OVERLAP,
};
/** Keywords that are refused by name wherever they stand. */
const UNSUPPORTED: Record<string, RegExp> = {
  contains: /'contains'/,
  definitions: REMOTE,
  dependencies: /'dependencies'/,
  'if-then-else': /'(if|then|else)'/,
  multipleOf: /'multipleOf'/,
  not: /'not'/,
  refRemote: REMOTE,
  uniqueItems: /'uniqueItems'/,
};
/** Instances that draft 2020-12 judges otherwise than the draft of the file. */
const OTHERWISE = new Set(['ref: ref overrides any sibling keywords']);

/** A value as JSON, its objects' keys in every order (a grammar has one; JSON's objects have none). */
function* writings(value: unknown): Generator<string> {
  if (value === null || typeof value !== 'object') {
    yield JSON.stringify(value);
    return;
  }
  const entries = Object.entries(value);
  const array = Array.isArray(value);
  for (const order of array || entries.length > 4 ? [entries] : permutations(entries)) {
    // One writing of each member: nesting of several objects with several keys is rare in the suite.
    const parts = order.map(([key, item]) => {
      const [text] = writings(item);
      return array ? text : `${JSON.stringify(key)}:${text}`;
    });
    yield array ? `[${parts.join(',')}]` : `{${parts.join(',')}}`;
  }
}

function permutations<T>(items: T[]): T[][] {
  if (items.length < 2) return [items];
  return items.flatMap((item, i) =>
    permutations([...items.slice(0, i), ...items.slice(i + 1)]).map((rest) => [item, ...rest]),
  );
}

const files = (draft: string): string[] =>
  readdirSync(join(folder, 'tests', draft))
    .filter((name) => name.endsWith('.json'))
    .map((name) => name.slice(0, -5));
const cases = (draft: string, file: string): Case[] =>
  JSON.parse(readFileSync(join(folder, 'tests', draft, `${file}.json`), 'utf8'));

describe.skipIf(!there)("the JSON Schema test suite (needs Debian's json-schema-test-suite)", () => {
  describe.each(['draft4', 'draft6', 'draft7'])('%s', (draft) => {
    it.each(there ? files(draft).filter((file) => CLAIMED.includes(file)) : [])('%s', async (file) => {
      let tested = 0;
      for (const { description, schema, tests } of cases(draft, file)) {
        const name = `${file}: ${description}`;
        let grammar: Grammar;
        try {
          grammar = await compiled({ kind: 'json', schema });
        } catch (error) {
          const nothing = tests.every((test) => !test.valid);
          const reason = nothing && !REFUSED[name] ? /no text satisfies/ : (REFUSED[name] ?? /not refused/);
          expect((error as Error).message, name).toMatch(reason);
          continue;
        }
        if (OTHERWISE.has(name)) continue;
        expect(REFUSED, name).not.toHaveProperty([name]);
        for (const { description: what, data, valid } of tests) {
          const accepted = [...writings(data)].some((text) => accepts(grammar, text));
          expect(accepted, `${name} / ${what}: ${JSON.stringify(data)}`).toBe(valid);
          tested++;
        }
      }
      // All of draft 4's schemas in this file overlap.
      if (!(draft === 'draft4' && file === 'oneOf')) expect(tested).toBeGreaterThan(0);
    });

    it.each(Object.keys(UNSUPPORTED))('%s is refused by name', async (file) => {
      if (!files(draft).includes(file)) return;
      for (const { schema, tests } of cases(draft, file)) {
        const failure = await compiled({ kind: 'json', schema }).then(
          () => null,
          (error: unknown) => error,
        );
        if (failure === null) {
          // A schema that only mentions the keyword's name: then it is honoured like any other.
          const grammar = await compiled({ kind: 'json', schema });
          for (const { data, valid } of tests) expect(accepts(grammar, JSON.stringify(data))).toBe(valid);
          continue;
        }
        expect(failure).toBeInstanceOf(FiligreeError);
        expect((failure as FiligreeError).code).toBe('unsupported_value');
        expect((failure as Error).message).toMatch(UNSUPPORTED[file] as RegExp);
      }
    });
  });
});
