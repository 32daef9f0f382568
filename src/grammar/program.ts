/**
 * Grammars as expressions, and as the numbers that the native compiler reads (native/grammar/program.h). The front ends
 * (JSON Schema, regular expressions, GBNF and Lark grammars) build expressions; none of them knows about tokens.
 */

export type Range = readonly [low: number, high: number];

export type Expression =
  | { op: 'empty' }
  | { op: 'never' }
  | { op: 'bytes'; bytes: Uint8Array }
  /** One character of these code points, ascending, not overlapping. */
  | { op: 'chars'; ranges: readonly Range[] }
  | { op: 'sequence'; parts: readonly Expression[] }
  | { op: 'choice'; parts: readonly Expression[] }
  /** max null: without end */
  | { op: 'repeat'; min: number; max: number | null; part: Expression }
  | { op: 'call'; rule: number }
  | { op: 'token'; id: number }
  /** Texts of both; neither may call a rule. */
  | { op: 'both'; a: Expression; b: Expression }
  /** Texts of a that are none of b's; neither may call a rule. */
  | { op: 'without'; a: Expression; b: Expression }
  | Separated;

export interface Separated {
  op: 'separated';
  separator: Expression;
  items: readonly { min: number; max: number | null; part: Expression }[];
  /** Nothing follows an item that was left out: positions of an array, not properties of an object. */
  stops: boolean;
  /** At least one item of all. */
  atLeastOne: boolean;
}

const OPS = [
  'empty',
  'never',
  'bytes',
  'chars',
  'sequence',
  'choice',
  'repeat',
  'call',
  'token',
  'both',
  'without',
  'separated',
] as const;
const CODE = Object.fromEntries(OPS.map((op, i) => [op, i])) as Record<(typeof OPS)[number], number>;
const VERSION = 1;

const utf8 = new TextEncoder();

export const EMPTY: Expression = { op: 'empty' };
export const NEVER: Expression = { op: 'never' };
export const text = (value: string): Expression =>
  value === '' ? EMPTY : { op: 'bytes', bytes: utf8.encode(value) };
export const sequence = (...parts: Expression[]): Expression =>
  parts.length === 1 ? (parts[0] as Expression) : { op: 'sequence', parts };
export const choice = (parts: readonly Expression[]): Expression =>
  parts.length === 0 ? NEVER : parts.length === 1 ? (parts[0] as Expression) : { op: 'choice', parts };
export const repeat = (part: Expression, min: number, max: number | null): Expression =>
  min === 1 && max === 1 ? part : { op: 'repeat', min, max, part };
export const optional = (part: Expression): Expression => repeat(part, 0, 1);
export const chars = (...ranges: Range[]): Expression => ({ op: 'chars', ranges });
export const both = (a: Expression, b: Expression): Expression => ({ op: 'both', a, b });
export const without = (a: Expression, b: Expression): Expression => ({ op: 'without', a, b });

/** Rules under construction. A rule may be called before it is defined. */
export class Grammar {
  private readonly rules: (Expression | null)[] = [];

  /** A new rule, to be defined later. */
  declare(): number {
    this.rules.push(null);
    return this.rules.length - 1;
  }

  define(rule: number, expression: Expression): void {
    this.rules[rule] = expression;
  }

  add(expression: Expression): Expression {
    const rule = this.declare();
    this.define(rule, expression);
    return { op: 'call', rule };
  }

  get size(): number {
    return this.rules.length;
  }

  /** The numbers the native compiler reads, beginning with `start`. */
  encode(start: Expression): Int32Array {
    const all = [...this.rules, start];
    const out: number[] = [VERSION, all.length, all.length - 1];
    for (const rule of all) {
      const at = out.push(0) - 1;
      write(rule ?? NEVER, out);
      out[at] = out.length - at - 1;
    }
    return Int32Array.from(out);
  }
}

function write(expression: Expression, out: number[]): void {
  out.push(CODE[expression.op]);
  switch (expression.op) {
    case 'bytes':
      out.push(expression.bytes.length);
      for (const byte of expression.bytes) out.push(byte);
      break;
    case 'chars':
      out.push(expression.ranges.length);
      for (const [low, high] of expression.ranges) out.push(low, high);
      break;
    case 'sequence':
    case 'choice':
      out.push(expression.parts.length);
      for (const part of expression.parts) write(part, out);
      break;
    case 'repeat':
      out.push(expression.min, expression.max ?? -1);
      write(expression.part, out);
      break;
    case 'call':
      out.push(expression.rule);
      break;
    case 'token':
      out.push(expression.id);
      break;
    case 'both':
    case 'without':
      write(expression.a, out);
      write(expression.b, out);
      break;
    case 'separated':
      out.push((expression.stops ? 1 : 0) + (expression.atLeastOne ? 2 : 0));
      write(expression.separator, out);
      out.push(expression.items.length);
      for (const { min, max, part } of expression.items) {
        out.push(min, max ?? -1);
        write(part, out);
      }
      break;
  }
}

/** About how many nodes of an automaton an expression takes, counted no further than `limit`. */
export function sizeOf(expression: Expression, limit: number): number {
  switch (expression.op) {
    case 'bytes':
      return expression.bytes.length;
    case 'chars':
      return 1 + expression.ranges.length;
    case 'sequence':
    case 'choice': {
      let sum = 1;
      for (const part of expression.parts) {
        if (sum >= limit) return limit;
        sum += sizeOf(part, limit - sum);
      }
      return sum;
    }
    case 'repeat':
      return 1 + sizeOf(expression.part, limit) * Math.max(1, expression.min, expression.max ?? 1);
    case 'both':
    case 'without':
    case 'separated':
      return limit;
    default:
      return 1;
  }
}
