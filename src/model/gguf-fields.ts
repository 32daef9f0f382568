import type { GgufValue } from './gguf.js';
import { invalid } from './model-file.js';

const shown = (value: unknown) => {
  const text = typeof value === 'object' ? 'a list' : String(value ?? 'missing');
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
};

/** Typed, range-checked access to a GGUF's metadata; every complaint names the key. */
export class GgufFields {
  constructor(
    readonly metadata: Map<string, GgufValue>,
    readonly where: string,
  ) {}

  private fail(key: string, expected: string): never {
    throw invalid(
      `${this.where}: metadata ${key} must be ${expected}, found ${shown(this.metadata.get(key))}`,
    );
  }

  has(key: string): boolean {
    return this.metadata.has(key);
  }

  integer(key: string, min: number, max: number, fallback?: number): number {
    const raw = this.metadata.get(key) ?? fallback;
    const value = typeof raw === 'bigint' ? Number(raw) : raw;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    return this.fail(key, `an integer from ${min} to ${max}`);
  }

  /** One integer, or a list of equal ones (one a layer). */
  uniform(key: string, min: number, max: number, fallback?: number): number {
    const raw = this.metadata.get(key);
    if (typeof raw !== 'object') return this.integer(key, min, max, fallback);
    const values = [...new Set(Array.from(raw as Iterable<unknown>, Number))];
    const only = values[0];
    if (values.length === 1 && only !== undefined && Number.isInteger(only) && only >= min && only <= max)
      return only;
    return this.fail(key, `the same integer from ${min} to ${max} for every layer`);
  }

  number(key: string, min: number, max: number, fallback?: number): number {
    const value = this.metadata.get(key) ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value >= min && value <= max) return value;
    return this.fail(key, `a number from ${min} to ${max}`);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.metadata.get(key) ?? fallback;
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false');
  }

  string(key: string, fallback?: string): string {
    const value = this.metadata.get(key) ?? fallback;
    return typeof value === 'string' ? value : this.fail(key, 'a text');
  }

  strings(key: string): string[] {
    const value = this.metadata.get(key);
    if (Array.isArray(value) && value.every((x) => typeof x === 'string')) return value;
    return this.fail(key, 'a list of texts');
  }

  /** A list of `length` numbers; null where it is absent. */
  numbers(key: string, length: number): ArrayLike<number> | null {
    const value = this.metadata.get(key);
    if (value === undefined) return null;
    if (
      ArrayBuffer.isView(value) &&
      !(value instanceof BigInt64Array) &&
      !(value instanceof BigUint64Array)
    ) {
      if (value.length === length) return value;
    }
    return this.fail(key, `a list of ${length} numbers`);
  }
}
