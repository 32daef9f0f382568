import { chars, type Range, text } from './program.js';
import { ANY, complement, union } from './ranges.js';
import type { Cursor, Named, Rules } from './rules.js';

/** llama.cpp's grammar notation: `root ::= "yes" | [0-9]+`. */

const NAME = /[A-Za-z_][A-Za-z0-9_-]*/y;
const SPACE = /(?:[ \t]|#[^\n]*)+/y;
const LINES = /(?:\s|#[^\n]*)+/y;
const MAX_DEPTH = 100;

export function parseGbnf(cursor: Cursor): Rules {
  const rules = new Map<string, Named>();
  cursor.match(LINES);
  while (!cursor.done) {
    const name = cursor.match(NAME)?.[0];
    cursor.match(SPACE);
    if (name === undefined || !cursor.eat('::=')) throw cursor.error("expected 'name ::= ...'");
    cursor.match(LINES);
    if (rules.has(name)) throw cursor.error(`the rule '${name}' is defined twice`);
    rules.set(name, alternatives(cursor, 0));
    if (!cursor.done && !/\n\s*$/.test(cursor.source.slice(0, cursor.at)) && cursor.match(LINES) === null)
      throw cursor.error(`unexpected '${cursor.rest.slice(0, 10)}'`);
  }
  return { start: 'root', rules };
}

function alternatives(cursor: Cursor, depth: number): Named {
  if (depth > MAX_DEPTH) throw cursor.error('nested too deeply');
  const parts: Named[] = [];
  do {
    cursor.match(depth > 0 ? LINES : SPACE);
    // At the top, an alternative may go on in the next line behind its bar.
    cursor.match(LINES);
    parts.push(items(cursor, depth));
  } while (nextBar(cursor));
  return { kind: 'choice', parts };
}

/** A bar here, or on a later line. */
function nextBar(cursor: Cursor): boolean {
  const at = cursor.at;
  cursor.match(LINES);
  if (cursor.eat('|')) return true;
  cursor.at = at;
  return false;
}

function items(cursor: Cursor, depth: number): Named {
  const parts: Named[] = [];
  while (!cursor.done) {
    cursor.match(depth > 0 ? LINES : SPACE);
    const item = atom(cursor, depth);
    if (item === null) break;
    parts.push(quantified(cursor, item));
  }
  return { kind: 'sequence', parts };
}

function atom(cursor: Cursor, depth: number): Named | null {
  if (cursor.eat('(')) {
    const inside = alternatives(cursor, depth + 1);
    cursor.match(LINES);
    if (!cursor.eat(')')) throw cursor.error("missing ')'");
    return inside;
  }
  if (cursor.eat('"')) {
    let value = '';
    while (!cursor.eat('"')) value += String.fromCodePoint(character(cursor));
    return { kind: 'expression', expression: text(value) };
  }
  if (cursor.eat('[')) return { kind: 'expression', expression: set(cursor) };
  if (cursor.eat('.')) return { kind: 'expression', expression: chars(...ANY) };
  const name = cursor.match(NAME)?.[0];
  return name === undefined ? null : { kind: 'rule', name };
}

function set(cursor: Cursor) {
  const negated = cursor.eat('^');
  const ranges: Range[] = [];
  while (!cursor.eat(']')) {
    const low = character(cursor);
    let high = low;
    if (cursor.peek('-') && !cursor.peek('-]')) {
      cursor.eat('-');
      high = character(cursor);
    }
    if (high < low) throw cursor.error('a range in the wrong order');
    ranges.push([low, high]);
  }
  const all = union(ranges);
  return chars(...(negated ? complement(all) : all));
}

const ESCAPES: Record<string, number> = { n: 10, r: 13, t: 9 };

function character(cursor: Cursor): number {
  if (cursor.done) throw cursor.error('a text or a set without an end');
  if (!cursor.eat('\\')) {
    const code = cursor.source.codePointAt(cursor.at) as number;
    cursor.at += code > 0xffff ? 2 : 1;
    return code;
  }
  const hex = cursor.match(/x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})/y);
  if (hex !== null) {
    const code = Number.parseInt(hex[1] ?? hex[2] ?? (hex[3] as string), 16);
    if (code > 0x10ffff) throw cursor.error('a character beyond Unicode');
    return code;
  }
  const code = cursor.source.codePointAt(cursor.at);
  if (code === undefined) throw cursor.error('a backslash at the end');
  cursor.at += code > 0xffff ? 2 : 1;
  return ESCAPES[String.fromCodePoint(code)] ?? code;
}

function quantified(cursor: Cursor, item: Named): Named {
  if (cursor.eat('*')) return { kind: 'repeat', min: 0, max: null, part: item };
  if (cursor.eat('+')) return { kind: 'repeat', min: 1, max: null, part: item };
  if (cursor.eat('?')) return { kind: 'repeat', min: 0, max: 1, part: item };
  const bounds = cursor.match(/\{\s*(\d{1,6})\s*(?:(,)\s*(\d{1,6})?\s*)?\}/y);
  if (bounds === null) {
    if (cursor.peek('{')) throw cursor.error('malformed bounds');
    return item;
  }
  const min = Number(bounds[1]);
  const max = bounds[2] === undefined ? min : bounds[3] === undefined ? null : Number(bounds[3]);
  if (max !== null && max < min) throw cursor.error('bounds in the wrong order');
  return { kind: 'repeat', min, max, part: item };
}
