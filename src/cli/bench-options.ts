import type { WeightFormat } from '../../bench/contestant.js';
import { FiligreeError } from '../errors.js';
import type { KvChoice } from '../native/index.js';

/** The list flags of `bench` and its subcommands. */
export function numbers(flag: string, text: string, check: (value: number) => boolean): number[] {
  const values = text.split(',').map(Number);
  if (values.length === 0 || !values.every((v) => Number.isFinite(v) && check(v)))
    throw new FiligreeError('usage', `${flag} takes numbers separated by commas, not '${text}'`);
  return values;
}

export const integer = (flag: string, text: string, least: number): number => {
  const [value] = numbers(flag, text, (v) => Number.isInteger(v) && v >= least);
  return value!;
};

/** Some of the names that a flag knows. */
export function pick<Name extends string>(flag: string, text: string, known: readonly Name[]): Name[] {
  const names = text.split(',') as Name[];
  for (const name of names)
    if (!known.includes(name))
      throw new FiligreeError('usage', `${flag} takes some of ${known.join(',')}, not '${name}'`);
  return names;
}

export const KV_TYPES: readonly KvChoice[] = ['f32', 'f16', 'bf16', 'i8', 'fp8'];
export const FORMATS: readonly WeightFormat[] = ['f32', 'bf16', 'i8', 'i4'];
