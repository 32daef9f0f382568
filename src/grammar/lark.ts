import { chars, type Expression, text } from './program.js';
import { regexExpression } from './regex.js';
import type { Cursor, Named, Rules } from './rules.js';

/** Lark's notation: `start: "yes" | NUMBER` with terminals in capitals, as far as it has no %ignore. */

const NAME = /[?!]?_?[A-Za-z][A-Za-z0-9_]*/y;
const SPACE = /(?:[ \t]|\/\/[^\n]*)+/y;
const LINES = /(?:\s|\/\/[^\n]*|#[^\n]*)+/y;
const MAX_DEPTH = 100;

/** Terminals of `%import common`, as Lark defines them. */
const COMMON: Record<string, string> = {
  DIGIT: '[0-9]',
  HEXDIGIT: '[a-fA-F0-9]',
  INT: '[0-9]+',
  SIGNED_INT: '[+-]?[0-9]+',
  DECIMAL: '[0-9]+\\.[0-9]*|\\.[0-9]+',
  FLOAT: '[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\\.[0-9]*|\\.[0-9]+)(?:[eE][+-]?[0-9]+)?',
  NUMBER: '[0-9]+(?:\\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\\.[0-9]+(?:[eE][+-]?[0-9]+)?',
  SIGNED_NUMBER: '[+-]?(?:[0-9]+(?:\\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\\.[0-9]+(?:[eE][+-]?[0-9]+)?)',
  ESCAPED_STRING: '"(?:[^"\\\\\\n]|\\\\.)*"',
  LCASE_LETTER: '[a-z]',
  UCASE_LETTER: '[A-Z]',
  LETTER: '[a-zA-Z]',
  WORD: '[a-zA-Z]+',
  CNAME: '[_a-zA-Z][_a-zA-Z0-9]*',
  WS_INLINE: '[ \\t]+',
  WS: '[ \\t\\f\\r\\n]+',
  CR: '\\r',
  LF: '\\n',
  NEWLINE: '(?:\\r?\\n)+',
};

export function parseLark(cursor: Cursor, param: string): Rules {
  const rules = new Map<string, Named>();
  const add = (name: string, body: Named) => {
    if (rules.has(name)) throw cursor.error(`the rule '${name}' is defined twice`);
    rules.set(name, body);
  };
  const reader = new LarkReader(cursor, param);
  cursor.match(LINES);
  while (!cursor.done) {
    if (cursor.eat('%import')) {
      for (const [name, body] of reader.imports()) add(name, body);
    } else if (cursor.peek('%')) {
      throw cursor.error(`'${cursor.rest.split(/\s/, 1)[0]}' is not supported`);
    } else {
      const name = cursor.match(NAME)?.[0]?.replace(/^[?!]/, '');
      cursor.match(/\.\d+/y);
      cursor.match(SPACE);
      if (name === undefined || !cursor.eat(':')) throw cursor.error("expected 'name: ...'");
      add(name, reader.alternatives(0));
    }
    cursor.match(LINES);
  }
  return { start: 'start', rules };
}

class LarkReader {
  constructor(
    private readonly cursor: Cursor,
    private readonly param: string,
  ) {}

  imports(): [string, Named][] {
    const { cursor } = this;
    cursor.match(SPACE);
    const one = cursor.match(/common\.([A-Z_]+)(?:[ \t]*->[ \t]*([A-Za-z_]\w*))?/y);
    const several = one === null ? cursor.match(/common[ \t]*\(([A-Z_,\s]+)\)/y) : null;
    const names: [string, string][] = one
      ? [[one[1] as string, one[2] ?? (one[1] as string)]]
      : (several?.[1] ?? '')
          .split(',')
          .map((name) => name.trim())
          .filter((name) => name !== '')
          .map((name) => [name, name]);
    if (names.length === 0) throw cursor.error("only '%import common.NAME' is supported");
    return names.map(([name, alias]) => {
      const pattern = COMMON[name];
      if (pattern === undefined) throw cursor.error(`'common.${name}' is not supported`);
      return [alias, { kind: 'expression', expression: this.regex(pattern, '') }];
    });
  }

  alternatives(depth: number): Named {
    const { cursor } = this;
    if (depth > MAX_DEPTH) throw cursor.error('nested too deeply');
    const parts: Named[] = [];
    do {
      cursor.match(depth > 0 ? LINES : SPACE);
      parts.push(this.items(depth));
    } while (this.nextBar());
    return { kind: 'choice', parts };
  }

  private nextBar(): boolean {
    const { cursor } = this;
    const { at } = cursor;
    cursor.match(LINES);
    if (cursor.eat('|')) return true;
    cursor.at = at;
    return false;
  }

  private items(depth: number): Named {
    const { cursor } = this;
    const parts: Named[] = [];
    while (!cursor.done) {
      cursor.match(depth > 0 ? LINES : SPACE);
      const item = this.atom(depth);
      if (item === null) break;
      parts.push(this.quantified(item));
    }
    cursor.match(/[ \t]*->[ \t]*[A-Za-z_]\w*/y);
    return { kind: 'sequence', parts };
  }

  private atom(depth: number): Named | null {
    const { cursor } = this;
    if (cursor.eat('(')) return this.closed(')', depth);
    if (cursor.eat('[')) return { kind: 'repeat', min: 0, max: 1, part: this.closed(']', depth) };
    const quoted = cursor.match(/"((?:[^"\\\n]|\\.)*)"(i?)/y);
    if (quoted !== null) {
      const value = this.unquoted(quoted[1] as string);
      if (cursor.eat('..')) {
        const end = cursor.match(/"((?:[^"\\\n]|\\.)*)"/y);
        const high = end === null ? '' : this.unquoted(end[1] as string);
        if ([...value].length !== 1 || [...high].length !== 1) throw cursor.error('a malformed range');
        const [low, last] = [value.codePointAt(0) as number, high.codePointAt(0) as number];
        if (last < low) throw cursor.error('a range in the wrong order');
        return { kind: 'expression', expression: chars([low, last]) };
      }
      if (quoted[2] === '') return { kind: 'expression', expression: text(value) };
      const escaped = value.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');
      return { kind: 'expression', expression: this.regex(escaped, 'i') };
    }
    const pattern = cursor.match(/\/((?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+)\/([imslux]*)/y);
    if (pattern !== null) {
      return { kind: 'expression', expression: this.regex(pattern[1] as string, pattern[2] as string) };
    }
    const { at } = cursor;
    const name = cursor.match(NAME)?.[0];
    if (name === undefined) return null;
    // The next rule begins here, not another item of this one.
    if (/^(?:\.\d+)?[ \t]*:/.test(cursor.rest)) {
      cursor.at = at;
      return null;
    }
    return { kind: 'rule', name: name.replace(/^[?!]/, '') };
  }

  private closed(end: string, depth: number): Named {
    const inside = this.alternatives(depth + 1);
    this.cursor.match(LINES);
    if (!this.cursor.eat(end)) throw this.cursor.error(`missing '${end}'`);
    return inside;
  }

  private quantified(item: Named): Named {
    const { cursor } = this;
    if (cursor.eat('*')) return { kind: 'repeat', min: 0, max: null, part: item };
    if (cursor.eat('+')) return { kind: 'repeat', min: 1, max: null, part: item };
    if (cursor.eat('?')) return { kind: 'repeat', min: 0, max: 1, part: item };
    const bounds = cursor.match(/[ \t]*~[ \t]*(\d{1,6})(?:[ \t]*\.\.[ \t]*(\d{1,6}))?/y);
    if (bounds === null) return item;
    const min = Number(bounds[1]);
    const max = bounds[2] === undefined ? min : Number(bounds[2]);
    if (max < min) throw cursor.error('bounds in the wrong order');
    return { kind: 'repeat', min, max, part: item };
  }

  private unquoted(inside: string): string {
    try {
      return JSON.parse(`"${inside.replace(/\\'/g, "'")}"`) as string;
    } catch {
      throw this.cursor.error('a malformed text');
    }
  }

  private regex(pattern: string, flags: string): Expression {
    if (/[mlx]/.test(flags)) throw this.cursor.error(`the flags '${flags}' are not supported`);
    return regexExpression(pattern, {
      character: (ranges) => chars(...ranges),
      whole: true,
      param: this.param,
      ignoreCase: flags.includes('i'),
      dotAll: flags.includes('s'),
    });
  }
}
