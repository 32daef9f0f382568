import {
  chars,
  choice,
  type Expression,
  type Grammar,
  optional,
  type Range,
  repeat,
  sequence,
  text,
} from './program.js';
import { ANY, difference, intersection, LAST_CODE_POINT, points, union } from './ranges.js';

/** How JSON is written: strings, numbers, and the white space between them. */

/** What a string holds as it is. */
export const PLAIN: Range[] = difference(ANY, union([[0, 0x1f]], points('"\\'), [[0xd800, 0xdfff]]));

const SHORT: Record<number, string> = { 8: 'b', 9: 't', 10: 'n', 12: 'f', 13: 'r', 34: '"', 92: '\\' };

/**
 * One character of a set as `JSON.stringify` writes it: each in one way only, so that lengths can be counted and keys told
 * apart by their bytes.
 */
export function stringCharacter(ranges: readonly Range[]): Expression {
  const plain = intersection(ranges, PLAIN);
  const parts: Expression[] = plain.length > 0 ? [chars(...plain)] : [];
  for (const [low, high] of intersection(ranges, union([[0, 0x1f]], points('"\\')))) {
    for (let code = low; code <= high; code++) {
      parts.push(text(`\\${SHORT[code] ?? `u${code.toString(16).padStart(4, '0')}`}`));
    }
  }
  return choice(parts);
}

const HEX = chars([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
const digit = (from: string): Expression => chars(...points(from));

/** One character of a string in any of the ways that JSON has. */
export const FREE_CHARACTER: Expression = choice([
  chars(...PLAIN),
  sequence(text('\\'), chars(...points('"\\/bfnrt'))),
  sequence(
    text('\\u'),
    choice([
      // Not half of a surrogate pair; or both halves.
      sequence(digit('0123456789abcefABCEF'), repeat(HEX, 3, 3)),
      sequence(digit('dD'), digit('01234567'), repeat(HEX, 2, 2)),
      sequence(
        digit('dD'),
        digit('89abAB'),
        repeat(HEX, 2, 2),
        text('\\u'),
        digit('dD'),
        digit('cdefCDEF'),
        repeat(HEX, 2, 2),
      ),
    ]),
  ),
]);

export const ANY_STRING_CHARACTER = stringCharacter([[0, LAST_CODE_POINT]]);

const DIGITS = chars([0x30, 0x39]);
/** Digits before the point: a double holds fewer exactly, and a model that cannot stop must. */
export const MOST_DIGITS = 19;
export const INTEGER: Expression = sequence(
  optional(text('-')),
  choice([text('0'), sequence(chars([0x31, 0x39]), repeat(DIGITS, 0, MOST_DIGITS - 1))]),
);
export const NUMBER: Expression = sequence(
  INTEGER,
  optional(sequence(text('.'), repeat(DIGITS, 1, 20))),
  optional(
    sequence(
      chars(...points('eE')),
      optional(chars(...points('+-'))),
      choice([repeat(DIGITS, 1, 2), sequence(chars([0x31, 0x32]), repeat(DIGITS, 2, 2))]),
    ),
  ),
);

/** Values of any kind, and the white space that may stand between tokens: rules made on first use. */
export class JsonRules {
  private made = new Map<string, Expression>();

  constructor(readonly grammar: Grammar) {}

  private rule(name: string, make: () => Expression): Expression {
    let known = this.made.get(name);
    if (known === undefined) {
      const rule = this.grammar.declare();
      known = { op: 'call', rule };
      this.made.set(name, known);
      this.grammar.define(rule, make());
    }
    return known;
  }

  /** Nothing, a space, or a new line and its indentation: unbounded white space is what a lost model writes for ever. */
  get space(): Expression {
    return this.rule('space', () =>
      optional(
        choice([
          text(' '),
          sequence(optional(text('\r')), text('\n'), repeat(chars(...points(' \t')), 0, 40)),
        ]),
      ),
    );
  }

  get comma(): Expression {
    return sequence(text(','), this.space);
  }

  get colon(): Expression {
    return sequence(text(':'), optional(text(' ')));
  }

  /** A string with a length in characters. */
  string(min = 0, max: number | null = null): Expression {
    return this.rule(`string ${min} ${max}`, () =>
      sequence(text('"'), repeat(FREE_CHARACTER, min, max), text('"')),
    );
  }

  get value(): Expression {
    return this.rule('value', () =>
      choice([this.object, this.array, this.string(), NUMBER, text('true'), text('false'), text('null')]),
    );
  }

  get object(): Expression {
    return this.rule('object', () => {
      const part = sequence(this.string(), this.colon, this.value);
      return this.braces('{', '}', {
        op: 'separated',
        separator: this.comma,
        items: [{ min: 0, max: null, part }],
        stops: true,
        atLeastOne: false,
      });
    });
  }

  get array(): Expression {
    return this.rule('array', () =>
      this.braces('[', ']', {
        op: 'separated',
        separator: this.comma,
        items: [{ min: 0, max: null, part: this.value }],
        stops: true,
        atLeastOne: false,
      }),
    );
  }

  braces(open: string, close: string, inside: Expression): Expression {
    return sequence(text(open), this.space, inside, this.space, text(close));
  }

  /** One value, as `JSON.stringify` would write it but for white space. */
  literal(value: unknown): Expression {
    if (Array.isArray(value)) {
      const items = value.map((item) => ({ min: 1, max: 1, part: this.literal(item) }));
      const inside = {
        op: 'separated',
        separator: this.comma,
        items,
        stops: true,
        atLeastOne: false,
      } as const;
      return this.braces('[', ']', inside);
    }
    if (value !== null && typeof value === 'object') {
      const items = Object.entries(value).map(([key, item]) => ({
        min: 1,
        max: 1,
        part: sequence(text(JSON.stringify(key)), this.colon, this.literal(item)),
      }));
      const inside = {
        op: 'separated',
        separator: this.comma,
        items,
        stops: false,
        atLeastOne: false,
      } as const;
      return this.braces('{', '}', inside);
    }
    return text(JSON.stringify(value));
  }
}
