import { invalid } from './model-file.js';

export type JsonObject = Record<string, unknown>;

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** @throws FiligreeError `model_invalid` unless the text is a JSON object */
export function parseObject(text: string, what: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`${what} is not valid JSON: ${(error as Error).message}`, error);
  }
  if (!isObject(value)) throw invalid(`${what} must hold a JSON object`);
  return value;
}

/**
 * Reads fields of a JSON object with their types and ranges checked; every complaint names the field. null counts as
 * absent, as transformers writes it for unset values.
 */
export class Fields {
  constructor(
    readonly object: JsonObject,
    readonly where: string,
  ) {}

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  get(key: string): unknown {
    const value = Object.hasOwn(this.object, key) ? this.object[key] : undefined;
    return value === null ? undefined : value;
  }

  private fail(key: string, expected: string): never {
    const shown = JSON.stringify(this.get(key)) ?? 'missing';
    throw invalid(
      `${this.where}: ${key} must be ${expected}, found ${shown.length > 80 ? `${shown.slice(0, 80)}…` : shown}`,
    );
  }

  integer(key: string, min: number, max: number, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    return this.fail(key, `an integer from ${min} to ${max}`);
  }

  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value >= min && value <= max) return value;
    return this.fail(key, `a number from ${min} to ${max}`);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false');
  }

  string(key: string, fallback?: string): string {
    const value = this.get(key) ?? fallback;
    return typeof value === 'string' ? value : this.fail(key, 'a string');
  }

  /** A list of numbers of the given length. */
  numbers(key: string, length: number, min: number, max: number): number[] {
    const value = this.get(key);
    const good =
      Array.isArray(value) &&
      value.length === length &&
      value.every((x) => typeof x === 'number' && Number.isFinite(x) && x >= min && x <= max);
    return good ? (value as number[]) : this.fail(key, `a list of ${length} numbers from ${min} to ${max}`);
  }

  /** An integer or a list of them; absent gives []. */
  ids(key: string): number[] {
    const value = this.get(key);
    const list = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (list.length > 1024 || !list.every((x) => Number.isSafeInteger(x)))
      this.fail(key, 'a token id or a list of them');
    return list as number[];
  }

  child(key: string): Fields | null {
    const value = this.get(key);
    if (value === undefined) return null;
    return isObject(value) ? new Fields(value, `${this.where}: ${key}`) : this.fail(key, 'an object');
  }
}
