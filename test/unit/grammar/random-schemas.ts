import type { Random } from '../server/random.js';

// biome-ignore lint/suspicious/noExplicitAny: schemas of every shape
type Schema = any;

const NAMES = ['a', 'name', 'id', 'x-y', 'größe', 'quo"te', 'back\\slash', 'items', 'kind', '_'];
const PATTERNS = ['^[a-z]{2,5}$', '^(foo|bar)+', '\\d{3}', '^\\S+@\\S+$', 'x$', '^[^"]*$', '^\\p{L}{1,4}$'];
const FORMATS = ['date', 'time', 'date-time', 'email', 'ipv4', 'ipv6', 'uuid', 'uri', 'hostname', 'duration'];

/** A schema of the features that docs/structured-output.md lists, nested up to `depth`. */
export function randomSchema(random: Random, depth = 3): Schema {
  const kinds = ['string', 'string', 'integer', 'number', 'boolean', 'null', 'enum', 'const'];
  if (depth > 0)
    kinds.push('object', 'object', 'object', 'array', 'tuple', 'anyOf', 'oneOf', 'allOf', 'types', 'ref');
  switch (random.pick(kinds)) {
    case 'string':
      return string(random);
    case 'integer':
    case 'number':
      return number(random);
    case 'boolean':
      return { type: 'boolean' };
    case 'null':
      return { type: 'null' };
    case 'enum':
      return { enum: Array.from({ length: 1 + random.below(4) }, () => value(random)) };
    case 'const':
      return { const: value(random) };
    case 'object':
      return object(random, depth);
    case 'array': {
      const min = random.below(3);
      return {
        type: 'array',
        items: randomSchema(random, depth - 1),
        ...(random.chance(0.4) && { minItems: min }),
        ...(random.chance(0.6) && { maxItems: min + random.below(3) }),
      };
    }
    case 'tuple':
      return {
        type: 'array',
        prefixItems: Array.from({ length: 1 + random.below(3) }, () => randomSchema(random, depth - 1)),
        items: random.chance(0.5) ? false : randomSchema(random, depth - 1),
        minItems: random.below(3),
      };
    case 'anyOf':
      return { anyOf: Array.from({ length: 1 + random.below(3) }, () => randomSchema(random, depth - 1)) };
    case 'oneOf':
      return {
        oneOf: ['one', 'two', 'three'].slice(0, 1 + random.below(3)).map((kind) => ({
          type: 'object',
          properties: { kind: { const: kind }, value: randomSchema(random, depth - 1) },
          required: ['kind'],
          additionalProperties: false,
        })),
      };
    case 'allOf':
      return {
        allOf: [
          { type: 'object', properties: { a: number(random), id: string(random) }, required: ['a'] },
          { properties: { a: number(random), name: randomSchema(random, depth - 1) } },
        ],
      };
    case 'types':
      return {
        type: ['string', 'null', 'integer'],
        maxLength: 1 + random.below(9),
        minimum: random.below(50),
      };
    default:
      return { $ref: '#/$defs/node' };
  }
}

/** With the definition that its references name: a tree. */
export function randomRoot(random: Random): Schema {
  const root = randomSchema(random);
  const node = {
    type: 'object',
    properties: {
      label: { type: 'string', maxLength: 4 },
      children: { type: 'array', items: { $ref: '#/$defs/node' }, maxItems: 2 },
    },
    required: ['label'],
    additionalProperties: false,
  };
  return { ...root, $defs: { node } };
}

function string(random: Random): Schema {
  const min = random.below(4);
  switch (random.below(5)) {
    case 0:
      return { type: 'string', pattern: random.pick(PATTERNS) };
    case 1:
      return { type: 'string', format: random.pick(FORMATS) };
    case 2:
      return { type: 'string', minLength: min, maxLength: min + random.below(20) };
    case 3:
      return { type: 'string', pattern: '^[a-zé🌍]*$', minLength: min, maxLength: min + random.below(9) };
    default:
      return { type: 'string' };
  }
}

function number(random: Random): Schema {
  const scale = random.pick([1, 10, 1000, 0.25, 1e9]);
  const low = (random.below(200) - 100) * scale;
  const integer = random.chance(0.5);
  const high = low + random.below(50) * scale + 1;
  return {
    type: integer ? 'integer' : 'number',
    ...(random.chance(0.5) && { [random.pick(['minimum', 'exclusiveMinimum'])]: low }),
    ...(random.chance(0.5) && { [random.pick(['maximum', 'exclusiveMaximum'])]: high + 1 }),
  };
}

function object(random: Random, depth: number): Schema {
  const names = NAMES.filter(() => random.chance(0.4));
  const required = names.filter(() => random.chance(0.5));
  return {
    type: 'object',
    properties: Object.fromEntries(names.map((name) => [name, randomSchema(random, depth - 1)])),
    ...(random.chance(0.7) && { required }),
    ...(random.chance(0.6)
      ? { additionalProperties: false }
      : random.chance(0.5) && { additionalProperties: randomSchema(random, 0) }),
    ...(random.chance(0.2) && { patternProperties: { '^x-': randomSchema(random, 0) } }),
    ...(random.chance(0.1) && { propertyNames: { maxLength: 8 } }),
    ...(random.chance(0.1) && { minProperties: 1 }),
  };
}

function value(random: Random): unknown {
  return random.pick([
    null,
    true,
    0,
    -1.5,
    1e21,
    'plain',
    'with "quotes" \\ and\nlines',
    '🌍',
    [1, 'two', [null]],
    { deep: { er: [] }, 'k"': 1 },
    {},
  ]);
}
