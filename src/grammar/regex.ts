import { FiligreeError } from '../errors.js';
import { choice, EMPTY, type Expression, type Range, repeat, sequence } from './program.js';
import { ANY, complement, points, union } from './ranges.js';

/**
 * Regular expressions in ECMAScript's syntax (what JSON Schema means by `pattern`), as far as they are regular: no
 * back-references, no look-around. Lazy quantifiers match the same texts as greedy ones.
 */

type Node =
  | { kind: 'chars'; ranges: readonly Range[] }
  | { kind: 'anchor'; at: 'start' | 'end' }
  | { kind: 'group'; alternatives: Node[][] }
  | { kind: 'repeat'; min: number; max: number | null; node: Node };

export interface RegexOptions {
  /** Writes one character of a set: as UTF-8, or as a JSON string would hold it. */
  character: (ranges: readonly Range[]) => Expression;
  /** Match the whole text rather than any part of it. */
  whole: boolean;
  /** Name of the parameter, for complaints. */
  param: string;
  ignoreCase?: boolean;
  dotAll?: boolean;
}

const MAX_LENGTH = 16_384;
const MAX_DEPTH = 100;
const MAX_REPEAT = 100_000;

const DIGIT: Range[] = [[0x30, 0x39]];
const WORD: Range[] = union(DIGIT, [[0x41, 0x5a]], [[0x61, 0x7a]], points('_'));
const SPACE: Range[] = union([[9, 13]], points(' \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff'), [
  [0x2000, 0x200a],
]);
const LINE_END = points('\n\r\u2028\u2029');
const CONTROL: Record<string, number> = { t: 9, n: 10, v: 11, f: 12, r: 13, 0: 0 };
const properties = new Map<string, Range[]>();

/** Code points with a Unicode property, asked of JavaScript's own engine. */
function property(name: string, negated: boolean): Range[] | null {
  let known = properties.get(name);
  if (known === undefined) {
    let test: RegExp;
    try {
      test = new RegExp(`^\\p{${name}}$`, 'u');
    } catch {
      return null;
    }
    known = [];
    let start = -1;
    for (let code = 0; code <= 0x110000; code++) {
      const has =
        code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) && test.test(String.fromCodePoint(code));
      if (has && start < 0) start = code;
      if (!has && start >= 0) {
        known.push([start, code - 1]);
        start = -1;
      }
    }
    if (properties.size > 64) properties.clear();
    properties.set(name, known);
  }
  return negated ? complement(known) : known;
}

function withBothCases(ranges: readonly Range[]): Range[] {
  const more: Range[] = [];
  for (const [low, high] of ranges) {
    // Beyond a few thousand characters both cases are there, or nobody meant them.
    for (let code = low; code <= Math.min(high, low + 4096); code++) {
      const character = String.fromCodePoint(code);
      for (const other of [character.toLowerCase(), character.toUpperCase()]) {
        const folded = other.codePointAt(0) as number;
        if (other.length === String.fromCodePoint(folded).length) more.push([folded, folded]);
      }
    }
  }
  return union(ranges, more);
}

class Parser {
  private at = 0;
  private readonly source: string[];

  constructor(
    pattern: string,
    private readonly options: RegexOptions,
  ) {
    if (pattern.length > MAX_LENGTH) throw this.refuse(`is longer than ${MAX_LENGTH} characters`);
    this.source = [...pattern];
  }

  parse(): Node[][] {
    const alternatives = this.alternatives(0);
    if (this.at < this.source.length) throw this.refuse(`has an unmatched ')' at ${this.at}`);
    return alternatives;
  }

  refuse(what: string): FiligreeError {
    const { param } = this.options;
    return new FiligreeError('invalid_value', `'${param}': the regular expression ${what}`, { param });
  }

  unsupported(what: string): FiligreeError {
    const { param } = this.options;
    const message = `'${param}': ${what} in a regular expression is not supported`;
    return new FiligreeError('unsupported_value', message, { param });
  }

  private alternatives(depth: number): Node[][] {
    if (depth > MAX_DEPTH) throw this.refuse(`is nested more than ${MAX_DEPTH} deep`);
    const all: Node[][] = [];
    let current: Node[] = [];
    while (this.at < this.source.length && this.source[this.at] !== ')') {
      if (this.eat('|')) {
        all.push(current);
        current = [];
        continue;
      }
      const node = this.atom(depth);
      current.push(this.quantified(node));
    }
    all.push(current);
    return all;
  }

  private atom(depth: number): Node {
    const c = this.source[this.at++] as string;
    switch (c) {
      case '^':
        return { kind: 'anchor', at: 'start' };
      case '$':
        return { kind: 'anchor', at: 'end' };
      case '.':
        return this.chars(this.options.dotAll ? ANY : complement(LINE_END));
      case '(':
        return this.group(depth);
      case '[':
        return this.chars(this.set());
      case '\\':
        return this.chars(this.escape(false));
      case '*':
      case '+':
      case '?':
        throw this.refuse(`has nothing to repeat at ${this.at - 1}`);
      case '{':
        if (this.bounds() !== null) throw this.refuse(`has nothing to repeat at ${this.at - 1}`);
        return this.chars(points(c));
      default:
        return this.chars(points(c));
    }
  }

  private chars(ranges: readonly Range[]): Node {
    return { kind: 'chars', ranges: this.options.ignoreCase ? withBothCases(ranges) : ranges };
  }

  private group(depth: number): Node {
    if (this.eat('?')) {
      if (this.eat('<')) {
        if (this.source[this.at] === '=' || this.source[this.at] === '!')
          throw this.unsupported('looking behind ((?<=…) or (?<!…))');
        while (this.at < this.source.length && this.source[this.at] !== '>') this.at++;
        this.at++;
      } else if (this.eat('P')) {
        if (!this.eat('<')) throw this.unsupported('(?P…)');
        while (this.at < this.source.length && this.source[this.at] !== '>') this.at++;
        this.at++;
      } else if (!this.eat(':')) {
        const c = this.source[this.at];
        throw this.unsupported(c === '=' || c === '!' ? `looking ahead ((?${c}…))` : `(?${c ?? ''}…)`);
      }
    }
    const alternatives = this.alternatives(depth + 1);
    if (!this.eat(')')) throw this.refuse("has an unmatched '('");
    return { kind: 'group', alternatives };
  }

  private quantified(node: Node): Node {
    let result = node;
    for (let first = true; ; first = false) {
      let bounds: { min: number; max: number | null } | null = null;
      if (this.eat('*')) bounds = { min: 0, max: null };
      else if (this.eat('+')) bounds = { min: 1, max: null };
      else if (this.eat('?')) bounds = { min: 0, max: 1 };
      else if (this.source[this.at] === '{') {
        this.at++;
        bounds = this.bounds();
        if (bounds === null) this.at--;
      }
      if (bounds === null) return result;
      if (!first) throw this.refuse(`repeats a repetition at ${this.at - 1}`);
      if (node.kind === 'anchor') throw this.refuse('repeats an anchor');
      if (bounds.max !== null && bounds.max < bounds.min) throw this.refuse('has bounds in the wrong order');
      if (Math.max(bounds.min, bounds.max ?? 0) > MAX_REPEAT)
        throw this.refuse(`repeats more than ${MAX_REPEAT} times`);
      this.eat('?');
      result = { kind: 'repeat', ...bounds, node: result };
    }
  }

  /** Behind `{`: n}, n,} or n,m}; null, and nothing read, where it is a plain brace. */
  private bounds(): { min: number; max: number | null } | null {
    const rest = this.source.slice(this.at, this.at + 24).join('');
    const match = /^(\d{1,9})(?:(,)(\d{1,9})?)?\}/.exec(rest);
    if (match === null) return null;
    this.at += match[0].length;
    const min = Number(match[1]);
    return { min, max: match[2] === undefined ? min : match[3] === undefined ? null : Number(match[3]) };
  }

  private set(): Range[] {
    const negated = this.eat('^');
    let ranges: Range[] = [];
    while (true) {
      const c = this.source[this.at++];
      if (c === undefined) throw this.refuse("has an unmatched '['");
      if (c === ']') break;
      const low = c === '\\' ? this.escape(true) : points(c);
      if (this.source[this.at] === '-' && this.source[this.at + 1] !== ']' && single(low)) {
        this.at++;
        const end = this.source[this.at++];
        if (end === undefined) throw this.refuse("has an unmatched '['");
        const high = end === '\\' ? this.escape(true) : points(end);
        if (!single(high)) {
          ranges = union(ranges, low, points('-'), high);
          continue;
        }
        const [from, to] = [low[0]?.[0] as number, high[0]?.[0] as number];
        if (to < from) throw this.refuse('has a range in the wrong order');
        ranges = union(ranges, [[from, to]]);
      } else ranges = union(ranges, low);
    }
    if (this.options.ignoreCase) ranges = withBothCases(ranges);
    return negated ? complement(ranges) : ranges;
  }

  private escape(inSet: boolean): Range[] {
    const c = this.source[this.at++];
    switch (c) {
      case undefined:
        throw this.refuse('ends with a backslash');
      case 'd':
        return DIGIT;
      case 'D':
        return complement(DIGIT);
      case 'w':
        return WORD;
      case 'W':
        return complement(WORD);
      case 's':
        return SPACE;
      case 'S':
        return complement(SPACE);
      case 'b':
        if (inSet) return points('\b');
        throw this.unsupported('the word boundary \\b');
      case 'B':
        throw this.unsupported('\\B');
      case 'p':
      case 'P': {
        const rest = this.source.slice(this.at, this.at + 80).join('');
        const name = /^\{([A-Za-z0-9_=]{1,60})\}/.exec(rest);
        const found = name === null ? null : property(name[1] as string, c === 'P');
        if (name === null || found === null) throw this.refuse(`has an unknown property \\${c}`);
        this.at += name[0].length;
        return found;
      }
      case 'u':
      case 'x':
        return this.hex(c);
      case 'c': {
        const letter = this.source[this.at++] ?? '';
        if (!/[A-Za-z]/.test(letter)) throw this.refuse('has a malformed \\c');
        const code = letter.charCodeAt(0) % 32;
        return [[code, code]];
      }
      default: {
        if (/[1-9k]/.test(c)) throw this.unsupported(`a back-reference (\\${c})`);
        const code = CONTROL[c] ?? (c.codePointAt(0) as number);
        return [[code, code]];
      }
    }
  }

  private hex(kind: 'u' | 'x'): Range[] {
    const rest = this.source.slice(this.at, this.at + 12).join('');
    const match =
      kind === 'x'
        ? /^([0-9a-fA-F]{2})/.exec(rest)
        : /^(?:\{([0-9a-fA-F]{1,6})\}|([0-9a-fA-F]{4}))/.exec(rest);
    if (match === null) throw this.refuse(`has a malformed \\${kind}`);
    this.at += match[0].length;
    let code = Number.parseInt(match[1] ?? (match[2] as string), 16);
    const low = /^\\u([dD][c-fC-F][0-9a-fA-F]{2})/.exec(this.source.slice(this.at, this.at + 6).join(''));
    if (code >= 0xd800 && code <= 0xdbff && low !== null) {
      code = 0x10000 + ((code - 0xd800) << 10) + (Number.parseInt(low[1] as string, 16) - 0xdc00);
      this.at += 6;
    }
    if (code > 0x10ffff) throw this.refuse('names a character beyond Unicode');
    return [[code, code]];
  }

  private eat(c: string): boolean {
    if (this.source[this.at] !== c) return false;
    this.at++;
    return true;
  }
}

const single = (ranges: readonly Range[]) => ranges.length === 1 && ranges[0]?.[0] === ranges[0]?.[1];

function hasAnchor(node: Node): boolean {
  if (node.kind === 'anchor') return true;
  if (node.kind === 'repeat') return hasAnchor(node.node);
  return node.kind === 'group' && node.alternatives.some((alternative) => alternative.some(hasAnchor));
}

/** Alternatives whose anchors stand at their own ends: groups that hold anchors are taken apart. */
function spread(alternatives: Node[][], parser: Parser, budget = { left: 1000 }): Node[][] {
  return alternatives.flatMap((alternative): Node[][] => {
    const at = alternative.findIndex((node) => node.kind === 'group' && hasAnchor(node));
    if (at < 0) return [alternative];
    const group = alternative[at] as Extract<Node, { kind: 'group' }>;
    budget.left -= group.alternatives.length;
    if (budget.left < 0) throw parser.unsupported('so many anchors');
    const opened = group.alternatives.map((inner) => [
      ...alternative.slice(0, at),
      ...inner,
      ...alternative.slice(at + 1),
    ]);
    return spread(opened, parser, budget);
  });
}

/**
 * The texts that a regular expression matches.
 * @throws FiligreeError naming what is malformed or not regular
 */
export function regexExpression(pattern: string, options: RegexOptions): Expression {
  const parser = new Parser(pattern, options);
  const anything = repeat(options.character(ANY), 0, null);
  const build = (node: Node): Expression => {
    switch (node.kind) {
      case 'chars':
        return options.character(node.ranges);
      case 'group':
        return choice(node.alternatives.map((nodes) => sequence(...nodes.map(build))));
      case 'repeat':
        if (hasAnchor(node.node)) throw parser.unsupported('a repeated anchor');
        return repeat(build(node.node), node.min, node.max);
      case 'anchor':
        throw parser.unsupported(`an anchor (${node.at === 'start' ? '^' : '$'}) in the middle`);
    }
  };
  const alternatives = spread(parser.parse(), parser).map((nodes) => {
    let [first, last] = [0, nodes.length];
    const is = (node: Node | undefined, at: 'start' | 'end') => node?.kind === 'anchor' && node.at === at;
    while (is(nodes[first], 'start')) first++;
    while (last > first && is(nodes[last - 1], 'end')) last--;
    const core = nodes.slice(first, last).map(build);
    const open = options.whole ? EMPTY : anything;
    return sequence(first > 0 ? EMPTY : open, ...core, last < nodes.length ? EMPTY : open);
  });
  return choice(alternatives);
}
