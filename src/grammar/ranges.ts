import type { Range } from './program.js';

/** Sets of code points as ascending ranges that neither touch nor overlap. */
export const LAST_CODE_POINT = 0x10ffff;
export const ANY: readonly Range[] = [[0, LAST_CODE_POINT]];

export function union(...sets: (readonly Range[])[]): Range[] {
  const all = sets.flat().sort((a, b) => a[0] - b[0]);
  const out: [number, number][] = [];
  for (const [low, high] of all) {
    const last = out.at(-1);
    if (last && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else out.push([low, high]);
  }
  return out;
}

export function complement(set: readonly Range[]): Range[] {
  const out: Range[] = [];
  let next = 0;
  for (const [low, high] of union(set)) {
    if (low > next) out.push([next, low - 1]);
    next = high + 1;
  }
  if (next <= LAST_CODE_POINT) out.push([next, LAST_CODE_POINT]);
  return out;
}

export const intersection = (a: readonly Range[], b: readonly Range[]): Range[] =>
  complement(union(complement(a), complement(b)));

export const difference = (a: readonly Range[], b: readonly Range[]): Range[] =>
  intersection(a, complement(b));

export const points = (characters: string): Range[] =>
  union([...characters].map((c): Range => [c.codePointAt(0) as number, c.codePointAt(0) as number]));
