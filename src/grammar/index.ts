import { FiligreeError } from '../errors.js';
import { parseGbnf } from './gbnf.js';
import { JsonRules } from './json-text.js';
import { parseLark } from './lark.js';
import { chars, choice, type Expression, Grammar, NEVER, text } from './program.js';
import { regexExpression } from './regex.js';
import { buildRules, Cursor } from './rules.js';
import { SchemaCompiler } from './schema.js';
import type { Json, SchemaNode } from './schema-shape.js';

export { type Expression, Grammar } from './program.js';
export { tokenTable } from './token-table.js';

/** What a text must be. */
export type ConstraintSpec =
  | { kind: 'json'; schema: unknown }
  | { kind: 'json_object' }
  | { kind: 'regex'; pattern: string }
  | { kind: 'choice'; choices: readonly string[] }
  | { kind: 'grammar'; source: string };

/** Bytes of a schema, a grammar or a list of choices: what is longer is refused before it costs anything. */
const MAX_SOURCE = 512 * 1024;
const MAX_CHOICES = 20_000;

/** Grammars under construction: rules of JSON are shared by all expressions made here. */
export class ConstraintBuilder {
  readonly grammar = new Grammar();
  readonly json = new JsonRules(this.grammar);

  /**
   * @param param the request's parameter, for complaints
   * @throws FiligreeError `invalid_value` or `unsupported_value`, naming what is wrong
   */
  expression(spec: ConstraintSpec, param: string): Expression {
    switch (spec.kind) {
      case 'json':
        return this.schema(spec.schema, param);
      case 'json_object':
        return this.json.object;
      case 'regex':
        return regexExpression(spec.pattern, {
          character: (ranges) => (ranges.length === 0 ? NEVER : chars(...ranges)),
          whole: true,
          param,
        });
      case 'choice':
        return this.choice(spec.choices, param);
      case 'grammar':
        return this.notation(spec.source, param);
    }
  }

  schema(schema: unknown, param: string): Expression {
    const isSchema =
      typeof schema === 'boolean' ||
      (typeof schema === 'object' && schema !== null && !Array.isArray(schema));
    if (!isSchema) throw new FiligreeError('invalid_value', `'${param}' must be a JSON Schema`, { param });
    this.limit(JSON.stringify(schema).length, param);
    return new SchemaCompiler(this.grammar, this.json, schema as SchemaNode, param).compile();
  }

  private choice(choices: readonly string[], param: string): Expression {
    const empty = choices.length === 0 || choices.some((item) => item === '');
    if (empty || choices.length > MAX_CHOICES)
      throw new FiligreeError(
        'invalid_value',
        `'${param}' must be 1 to ${MAX_CHOICES} texts, none of them empty`,
        {
          param,
        },
      );
    this.limit(
      choices.reduce((sum, item) => sum + item.length, 0),
      param,
    );
    return choice(choices.map(text));
  }

  private notation(source: string, param: string): Expression {
    this.limit(source.length, param);
    const fail = (message: string) =>
      new FiligreeError('invalid_value', `'${param}': the grammar ${message}`, { param });
    const cursor = new Cursor(source, (message) => fail(`has ${message}`));
    const rules = source.includes('::=') ? parseGbnf(cursor) : parseLark(cursor, param);
    return buildRules(rules, this.grammar, fail);
  }

  private limit(length: number, param: string): void {
    if (length <= MAX_SOURCE) return;
    throw new FiligreeError('invalid_value', `'${param}' is longer than ${MAX_SOURCE} bytes`, { param });
  }
}

/** The program of a constraint that stands alone. @throws FiligreeError */
export function constraintProgram(spec: ConstraintSpec, param: string): Int32Array {
  const builder = new ConstraintBuilder();
  return builder.grammar.encode(builder.expression(spec, param));
}

export type { Json };
