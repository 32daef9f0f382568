import { INTEGER, MOST_DIGITS } from './json-text.js';
import {
  both,
  chars,
  choice,
  EMPTY,
  type Expression,
  NEVER,
  optional,
  repeat,
  sequence,
  text,
} from './program.js';

/** Numbers within bounds, as decimal text without an exponent. */

export interface Bound {
  value: number;
  exclusive: boolean;
}

const DIGIT = chars([0x30, 0x39]);
const NONZERO = chars([0x31, 0x39]);
const MOST_FRACTION = 20;
const between = (low: number, high: number): Expression =>
  low > high ? NEVER : chars([0x30 + low, 0x30 + high]);

/** |value| as digits before and after the point; null where it takes more than a text of this kind holds. */
function decimal(value: number): { whole: string; fraction: string } | null {
  const plain = Math.abs(value).toLocaleString('en', { useGrouping: false, maximumFractionDigits: 20 });
  const [whole = '0', fraction = ''] = plain.split('.');
  if (whole.length > MOST_DIGITS || Number(plain) !== Math.abs(value)) return null;
  return { whole, fraction: fraction.replace(/0+$/, '') };
}

/** Whole numbers without sign that are greater (less) than these digits, of the same length. */
function beside(digits: string, greater: boolean): Expression {
  const parts: Expression[] = [];
  for (let i = 0; i < digits.length; i++) {
    const d = Number(digits[i]);
    const low = greater ? d + 1 : i === 0 && digits.length > 1 ? 1 : 0;
    const step = between(low, greater ? 9 : d - 1);
    parts.push(
      sequence(text(digits.slice(0, i)), step, repeat(DIGIT, digits.length - i - 1, digits.length - i - 1)),
    );
  }
  return choice(parts);
}

const longer = (digits: string): Expression =>
  digits.length >= MOST_DIGITS ? NEVER : sequence(NONZERO, repeat(DIGIT, digits.length, MOST_DIGITS - 1));
const shorter = (digits: string): Expression =>
  digits.length === 1 ? NEVER : choice([text('0'), sequence(NONZERO, repeat(DIGIT, 0, digits.length - 2))]);

const anyFraction = (integer: boolean): Expression =>
  integer ? EMPTY : optional(sequence(text('.'), repeat(DIGIT, 1, MOST_FRACTION)));

/** Digits behind the point, at least (at most) these, no more than `most` of them. */
function fractionBeside(fraction: string, greater: boolean, exclusive: boolean, most: number): Expression {
  const parts: Expression[] = [];
  for (let i = 0; i < fraction.length; i++) {
    const d = Number(fraction[i]);
    const step = greater ? between(d + 1, 9) : between(0, d - 1);
    parts.push(sequence(text(fraction.slice(0, i)), step, repeat(DIGIT, 0, most - i - 1)));
    // Cut off earlier, it is less.
    if (!greater && i > 0) parts.push(text(fraction.slice(0, i)));
  }
  // All of the bound's digits, and then; behind a point stands at least one.
  const room = most - fraction.length;
  const least = fraction === '' ? 1 : 0;
  if (!exclusive) parts.push(sequence(text(fraction), repeat(greater ? DIGIT : text('0'), least, room)));
  else if (greater) {
    for (let zeros = 0; zeros < room; zeros++)
      parts.push(sequence(text(fraction + '0'.repeat(zeros)), NONZERO, repeat(DIGIT, 0, room - zeros - 1)));
  }
  return choice(parts);
}

/** Numbers without sign beyond a bound of the same kind. */
function magnitude(bound: number, greater: boolean, exclusive: boolean, integer: boolean): Expression | null {
  const digits = decimal(bound);
  if (digits === null || (exclusive && bound !== 0 && Math.abs(bound) > Number.MAX_SAFE_INTEGER)) return null;
  const { whole, fraction } = digits;
  const beyond = choice([beside(whole, greater), greater ? longer(whole) : shorter(whole)]);
  const parts = [sequence(beyond, anyFraction(integer))];
  if (integer) {
    const equal = fraction === '' ? !exclusive : !greater;
    if (equal) parts.push(text(whole));
    return choice(parts);
  }
  // Without a fraction, the whole number itself.
  if (fraction === '' ? !exclusive : !greater) parts.push(text(whole));
  // Below fifteen digits no two texts are the same double: a text beyond the bound is a number beyond it.
  const most = exclusive ? Math.max(fraction.length, 15 - whole.length) : MOST_FRACTION;
  const same = fractionBeside(fraction, greater, exclusive, most);
  parts.push(sequence(text(`${whole}.`), same));
  return choice(parts);
}

/** All numbers on one side of a bound; null where its digits are too many. */
function side(bound: Bound, greater: boolean, integer: boolean): Expression | null {
  const { value, exclusive } = bound;
  const sign = text('-');
  const all = choice([text('0'), sequence(NONZERO, repeat(DIGIT, 0, MOST_DIGITS - 1))]);
  const any = sequence(all, anyFraction(integer));
  const zero = sequence(
    text('0'),
    integer ? EMPTY : optional(sequence(text('.'), repeat(text('0'), 1, MOST_FRACTION))),
  );
  const beyond = magnitude(value, value < 0 ? !greater : greater, exclusive, integer);
  if (beyond === null) return null;
  if (value > 0 || (value === 0 && !(greater || exclusive)) || (value === 0 && greater)) {
    if (greater) {
      // -0 is zero.
      return value === 0 && !exclusive ? choice([beyond, sequence(sign, zero)]) : beyond;
    }
    return choice([beyond, sequence(sign, any)]);
  }
  if (value === 0) return sequence(sign, magnitude(0, true, true, integer) as Expression);
  return greater ? choice([any, sequence(sign, beyond)]) : sequence(sign, beyond);
}

/**
 * Numbers between two bounds, either of which may be missing (but not both).
 * @returns null where a bound has more digits than fit
 */
export function numberBetween(low: Bound | null, high: Bound | null, integer: boolean): Expression | null {
  const above = low && side(low, true, integer);
  const below = high && side(high, false, integer);
  if ((low && !above) || (high && !below)) return null;
  if (above && below) return both(above, below);
  return above || below || INTEGER;
}
