import { FiligreeError } from '../errors.js';
import type { Bound } from './number-range.js';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type SchemaNode = boolean | { [key: string]: Json };

export const TYPES = ['null', 'boolean', 'integer', 'number', 'string', 'array', 'object'] as const;
export type TypeName = (typeof TYPES)[number];

/**
 * What a schema says of a value, `allOf` and `$ref` gathered in: everything here holds at once. Keywords for one type say
 * nothing of the others.
 */
export interface Shape {
  /** 'number' includes 'integer', and never stands beside it. */
  types: Set<TypeName>;
  values: Json[] | null;
  low: Bound | null;
  high: Bound | null;
  minLength: number;
  maxLength: number | null;
  patterns: string[];
  formats: string[];
  prefixItems: SchemaNode[];
  items: SchemaNode;
  minItems: number;
  maxItems: number | null;
  properties: Map<string, SchemaNode>;
  required: Set<string>;
  patternProperties: Map<string, SchemaNode>;
  additional: SchemaNode;
  propertyNames: SchemaNode;
  minProperties: number;
  maxProperties: number | null;
  /** Of each group one alternative holds; of an exclusive one, only one. */
  groups: { exclusive: boolean; alternatives: SchemaNode[]; path: string }[];
}

export const anyShape = (): Shape => ({
  types: new Set(TYPES.filter((type) => type !== 'integer')),
  values: null,
  low: null,
  high: null,
  minLength: 0,
  maxLength: null,
  patterns: [],
  formats: [],
  prefixItems: [],
  items: true,
  minItems: 0,
  maxItems: null,
  properties: new Map(),
  required: new Set(),
  patternProperties: new Map(),
  additional: true,
  propertyNames: true,
  minProperties: 0,
  maxProperties: null,
  groups: [],
});

export const same = (a: Json, b: Json): boolean => canonical(a) === canonical(b);

/** JSON with its keys in one order. */
export function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const keys = Object.keys(value).sort();
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key] as Json)}`).join(',')}}`;
}

export function typeOf(value: Json): TypeName {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  if (typeof value === 'number') return Number.isInteger(value) ? 'integer' : 'number';
  return typeof value as 'boolean' | 'string' | 'object';
}

export const hasType = (types: ReadonlySet<TypeName>, value: Json): boolean =>
  types.has(typeOf(value)) || (typeof value === 'number' && types.has('number'));

export function intersectTypes(a: ReadonlySet<TypeName>, b: ReadonlySet<TypeName>): Set<TypeName> {
  const out = new Set<TypeName>();
  for (const type of a) {
    if (b.has(type)) out.add(type);
    else if (type === 'number' && b.has('integer')) out.add('integer');
    else if (type === 'integer' && b.has('number')) out.add('integer');
  }
  return out;
}

export const tighterLow = (a: Bound | null, b: Bound): Bound =>
  a === null || b.value > a.value || (b.value === a.value && b.exclusive) ? b : a;
export const tighterHigh = (a: Bound | null, b: Bound): Bound =>
  a === null || b.value < a.value || (b.value === a.value && b.exclusive) ? b : a;

/** A complaint about a schema: where in it, and what. */
export function schemaError(
  code: 'invalid_value' | 'unsupported_value',
  param: string,
  path: string,
  what: string,
): FiligreeError {
  const where = path === '' ? 'the schema' : `the schema at '${path}'`;
  return new FiligreeError(code, `'${param}': ${where} ${what}`, { param });
}
