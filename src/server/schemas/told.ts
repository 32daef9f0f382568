import type { Service } from '../service.js';

/**
 * Restrictions that the OpenAPI document tells and the validator leaves to the code behind it, because that code's complaint
 * names what is meant ("this model reads text only, not 'image_url'") where a validator's would list the branches of a union.
 * A schema carries them as `told: restriction` among its options; `tell` turns them into keywords of the document.
 */
export type Restriction = Record<string, unknown> | ((service: Service) => Record<string, unknown>);

const KEY = 'x-told';
/** Schemas are data that frameworks copy, so that a function would be lost: they carry an index. */
const restrictions: Restriction[] = [];

/** An option for a schema: what else holds for its values. */
export function told(...all: Restriction[]): Record<string, unknown> {
  return { [KEY]: all.map((one) => restrictions.push(one) - 1) };
}

/** The document with every restriction as keywords: beside the schema's own, or in `allOf` where it has such already. */
export function tell<T>(document: T, service: Service): T {
  const visit = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(visit);
    if (typeof value !== 'object' || value === null) return value;
    const { [KEY]: indexes, ...rest } = value as Record<string, unknown>;
    const schema = Object.fromEntries(Object.entries(rest).map(([key, inner]) => [key, visit(inner)]));
    if (indexes === undefined) return schema;
    const all = (indexes as number[]).map((i) => {
      const one = restrictions[i] as Restriction;
      return typeof one === 'function' ? one(service) : one;
    });
    const [only] = all;
    const joins = (one: Record<string, unknown>) =>
      Object.keys(one).every((key) => !(key in schema) || key === 'maximum');
    return all.length === 1 && only && joins(only) ? { ...schema, ...only } : { ...schema, allOf: all };
  };
  return visit(document) as T;
}

/** The parameter is given, and is such. */
export const given = (name: string, schema: object) => ({ required: [name], properties: { [name]: schema } });
/** The parameter is left out, or is one of these. */
export const unlessGiven = (name: string, ...values: unknown[]) => ({
  properties: { [name]: { enum: [null, ...values] } },
});
export const either = (...options: object[]) => ({ anyOf: options });
