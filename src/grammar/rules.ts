import type { FiligreeError } from '../errors.js';
import { choice, EMPTY, type Expression, type Grammar, repeat, sequence, sizeOf } from './program.js';

/** What the grammar notations have in common: named rules, some of them left-recursive. */

/** An expression that may name rules not yet known. */
export type Named =
  | { kind: 'expression'; expression: Expression }
  | { kind: 'rule'; name: string }
  | { kind: 'sequence'; parts: Named[] }
  | { kind: 'choice'; parts: Named[] }
  | { kind: 'repeat'; min: number; max: number | null; part: Named };

export interface Rules {
  start: string;
  rules: Map<string, Named>;
}

/** Small rules without recursion become part of those that use them: what follows them is then seen at once. */
const INLINE_WEIGHT = 60;
const MAX_RULES = 5000;

/**
 * Turns direct left recursion (`a: a "+" b | b`) into a repetition, which derives the same texts.
 * @returns the body unchanged where it is not left-recursive
 */
function withoutLeftRecursion(name: string, body: Named): Named {
  const alternatives = body.kind === 'choice' ? body.parts : [body];
  const tails: Named[] = [];
  const bases: Named[] = [];
  for (const alternative of alternatives) {
    const parts = alternative.kind === 'sequence' ? alternative.parts : [alternative];
    const [first] = parts;
    if (first?.kind === 'rule' && first.name === name)
      tails.push({ kind: 'sequence', parts: parts.slice(1) });
    else bases.push(alternative);
  }
  if (tails.length === 0) return body;
  const tail: Named = { kind: 'repeat', min: 0, max: null, part: { kind: 'choice', parts: tails } };
  return { kind: 'sequence', parts: [{ kind: 'choice', parts: bases }, tail] };
}

/** @throws what `unknown` makes of a rule that is not there */
export function buildRules(
  { start, rules }: Rules,
  grammar: Grammar,
  fail: (message: string) => FiligreeError,
): Expression {
  if (rules.size > MAX_RULES) throw fail(`has more than ${MAX_RULES} rules`);
  if (!rules.has(start)) throw fail(`has no rule '${start}'`);
  const made = new Map<string, Expression>();
  const open = new Map<string, number | null>();

  function rule(name: string): Expression {
    const known = made.get(name);
    if (known !== undefined) return known;
    if (open.has(name)) {
      const id = open.get(name) ?? grammar.declare();
      open.set(name, id);
      return { op: 'call', rule: id };
    }
    const body = rules.get(name);
    if (body === undefined) throw fail(`uses the rule '${name.slice(0, 60)}', which it does not define`);
    if (open.size > 200) throw fail('is nested too deeply');
    open.set(name, null);
    let expression = build(withoutLeftRecursion(name, body));
    const id = open.get(name) ?? null;
    open.delete(name);
    if (id !== null) {
      grammar.define(id, expression);
      expression = { op: 'call', rule: id };
    } else if (sizeOf(expression, INLINE_WEIGHT) >= INLINE_WEIGHT) expression = grammar.add(expression);
    made.set(name, expression);
    return expression;
  }

  function build(named: Named): Expression {
    switch (named.kind) {
      case 'expression':
        return named.expression;
      case 'rule':
        return rule(named.name);
      case 'sequence':
        return named.parts.length === 0 ? EMPTY : sequence(...named.parts.map(build));
      case 'choice':
        return choice(named.parts.map(build));
      case 'repeat':
        return repeat(build(named.part), named.min, named.max);
    }
  }
  return rule(start);
}

/** Reads a notation character by character; complaints say the line. */
export class Cursor {
  at = 0;
  constructor(
    readonly source: string,
    readonly fail: (message: string) => FiligreeError,
  ) {}

  get done(): boolean {
    return this.at >= this.source.length;
  }
  get rest(): string {
    return this.source.slice(this.at);
  }
  peek(text: string): boolean {
    return this.source.startsWith(text, this.at);
  }
  eat(text: string): boolean {
    if (!this.peek(text)) return false;
    this.at += text.length;
    return true;
  }
  /** `pattern` must be sticky. */
  match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.source);
    if (found !== null) this.at += found[0].length;
    return found;
  }
  error(what: string): FiligreeError {
    const line = this.source.slice(0, this.at).split('\n').length;
    return this.fail(`${what} in line ${line}`);
  }
}
