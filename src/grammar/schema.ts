import { FORMATS } from './formats.js';
import { ANY_STRING_CHARACTER, INTEGER, type JsonRules, NUMBER, stringCharacter } from './json-text.js';
import { numberBetween } from './number-range.js';
import {
  both,
  choice,
  type Expression,
  type Grammar,
  NEVER,
  repeat,
  type Separated,
  sequence,
  sizeOf,
  text,
  without,
} from './program.js';
import { regexExpression } from './regex.js';
import { alternativesOverlap } from './schema-disjoint.js';
import { fits, SchemaReader } from './schema-reader.js';
import type { Json, SchemaNode, Shape, TypeName } from './schema-shape.js';

/**
 * JSON Schema (draft 2020-12, and the older spellings that people still write) as a grammar of the JSON texts that
 * satisfy it: declared properties in the schema's order, then any others; white space as people and models write it.
 * What cannot be honoured is refused by name (docs/structured-output.md has the table).
 */

/** Longest repetition that is written out. */
const MAX_COUNT = 20_000;
/** Shapes made of alternatives and what stands beside them. */
const MAX_COMBINATIONS = 4000;
const MAX_DEPTH = 150;
/** Nodes from which on an expression is a rule of its own, so that what it allows is found once. */
const INLINE_SIZE = 25;

export class SchemaCompiler {
  private readonly reader: SchemaReader;
  private readonly made = new Map<SchemaNode, Expression>();
  /** Nodes under construction; a rule once something recursive calls them. */
  private readonly open = new Map<SchemaNode, number | null>();
  private combinations = 0;
  private depth = 0;

  constructor(
    private readonly grammar: Grammar,
    private readonly json: JsonRules,
    private readonly root: SchemaNode,
    private readonly param: string,
  ) {
    this.reader = new SchemaReader(root, param);
  }

  /** @throws FiligreeError invalid_value or unsupported_value, naming the place in the schema */
  compile(): Expression {
    return this.node(this.root, '');
  }

  private node(given: SchemaNode, path: string): Expression {
    const node = this.reader.follow(given, path);
    if (node === true) return this.json.value;
    if (node === false) return NEVER;
    const known = this.made.get(node);
    if (known !== undefined) return known;
    if (this.open.has(node)) {
      const rule = this.open.get(node) ?? this.grammar.declare();
      this.open.set(node, rule);
      return { op: 'call', rule };
    }
    if (++this.depth > MAX_DEPTH) throw this.reader.error(path, 'is nested too deeply');
    this.open.set(node, null);
    let expression = this.ofShape(this.reader.shape(node, path), path, true);
    const rule = this.open.get(node) ?? null;
    this.open.delete(node);
    this.depth--;
    if (rule !== null) {
      this.grammar.define(rule, expression);
      expression = { op: 'call', rule };
    } else if (sizeOf(expression, INLINE_SIZE) >= INLINE_SIZE) expression = this.grammar.add(expression);
    this.made.set(node, expression);
    return expression;
  }

  /** @param whole the shape is a node's own, so that its alternatives can be compiled as nodes of their own */
  private ofShape(shape: Shape, path: string, whole: boolean): Expression {
    if (++this.combinations > MAX_COMBINATIONS)
      throw this.reader.error(path, 'combines too many alternatives');
    const [group, ...others] = shape.groups;
    if (group === undefined) return this.ofTypes(shape, path);
    if (group.exclusive) this.checkExclusive(shape, group, path);
    const plain = whole && others.length === 0 && saysNothingElse(shape);
    return choice(
      group.alternatives.map((alternative, i) => {
        const inner = `${group.path}/${i}`;
        if (plain) return this.node(alternative, inner);
        const combined = copyOf(shape, others);
        this.reader.absorb(combined, alternative, inner, 1);
        return this.ofShape(combined, path, false);
      }),
    );
  }

  private checkExclusive(shape: Shape, group: Shape['groups'][number], path: string): void {
    const shapes = group.alternatives.map((alternative, i) => {
      const combined = copyOf(shape, []);
      this.reader.absorb(combined, alternative, `${group.path}/${i}`, 1);
      return combined;
    });
    for (let i = 0; i < shapes.length; i++) {
      for (let j = i + 1; j < shapes.length; j++) {
        if (++this.combinations > MAX_COMBINATIONS * 4)
          throw this.reader.error(path, 'combines too many alternatives');
        if (!alternativesOverlap(this.reader, shapes[i] as Shape, shapes[j] as Shape, path)) continue;
        throw this.reader.unsupported(
          group.path,
          `has alternatives ${i} and ${j} that may both hold; 'oneOf' is supported where types, constants of a required property, or ranges keep them apart (or use 'anyOf')`,
        );
      }
    }
  }

  private ofTypes(shape: Shape, path: string): Expression {
    if (shape.values !== null) return this.ofValues(shape, shape.values, path);
    const parts: Expression[] = [];
    for (const type of shape.types) parts.push(this.ofType(type, shape, path));
    return choice(parts.filter((part) => part.op !== 'never'));
  }

  private ofValues(shape: Shape, values: Json[], path: string): Expression {
    const kept = values.filter((value) => {
      const fit = fits(this.reader, shape, value, path);
      if (fit === null)
        throw this.reader.unsupported(path, "constrains the values of an 'enum' or 'const' further");
      return fit;
    });
    return choice(kept.map((value) => this.json.literal(value)));
  }

  private ofType(type: TypeName, shape: Shape, path: string): Expression {
    switch (type) {
      case 'null':
        return text('null');
      case 'boolean':
        return choice([text('true'), text('false')]);
      case 'integer':
      case 'number':
        return this.number(shape, type === 'integer', path);
      case 'string':
        return this.string(shape, path);
      case 'array':
        return this.array(shape, path);
      case 'object':
        return this.object(shape, path);
    }
  }

  private number(shape: Shape, integer: boolean, path: string): Expression {
    const { low, high } = shape;
    if (low === null && high === null) return integer ? INTEGER : NUMBER;
    if (
      low &&
      high &&
      (low.value > high.value || (low.value === high.value && (low.exclusive || high.exclusive)))
    )
      return NEVER;
    const expression = numberBetween(low, high, integer);
    if (expression === null)
      throw this.reader.unsupported(path, "has a bound ('minimum', 'maximum') of more than 19 digits");
    return expression;
  }

  private count(value: number, keyword: string, path: string): number {
    if (value > MAX_COUNT)
      throw this.reader.unsupported(
        path,
        `has a '${keyword}' of ${value}; the most supported is ${MAX_COUNT}`,
      );
    return value;
  }

  private string(shape: Shape, path: string): Expression {
    const contents = this.stringContents(shape, path);
    const min = this.count(shape.minLength, 'minLength', path);
    const max = shape.maxLength === null ? null : this.count(shape.maxLength, 'maxLength', path);
    if (max !== null && max < min) return NEVER;
    return contents === null
      ? this.json.string(min, max)
      : this.grammar.add(sequence(text('"'), contents, text('"')));
  }

  /** What stands between the quotes, where more than a length is asked for. Calls no rule. */
  private stringContents(shape: Shape, path: string): Expression | null {
    const parts: Expression[] = [];
    for (const pattern of shape.patterns) {
      this.reader.pattern(pattern, path);
      parts.push(regexExpression(pattern, { character: stringCharacter, whole: false, param: this.param }));
    }
    for (const format of shape.formats) {
      const pattern = FORMATS[format];
      if (pattern === undefined)
        throw this.reader.unsupported(
          path,
          `has the format '${format.slice(0, 40)}'; supported are ${Object.keys(FORMATS).join(', ')}`,
        );
      parts.push(regexExpression(pattern, { character: stringCharacter, whole: true, param: this.param }));
    }
    if (parts.length === 0) return null;
    if (shape.minLength > 0 || shape.maxLength !== null)
      parts.push(repeat(ANY_STRING_CHARACTER, shape.minLength, shape.maxLength));
    return parts.reduce((a, b) => both(a, b));
  }

  private array(shape: Shape, path: string): Expression {
    const min = this.count(shape.minItems, 'minItems', path);
    const max = shape.maxItems === null ? null : this.count(shape.maxItems, 'maxItems', path);
    if (max !== null && max < min) return NEVER;
    const items: { min: number; max: number | null; part: Expression }[] = [];
    const prefix = shape.prefixItems.slice(0, max ?? undefined);
    for (const [i, item] of prefix.entries()) {
      const part = this.node(item, `${path}/prefixItems/${i}`);
      if (part.op === 'never') return i < min ? NEVER : this.list(items);
      items.push({ min: i < min ? 1 : 0, max: 1, part });
    }
    const rest = this.node(shape.items, `${path}/items`);
    const restMin = Math.max(0, min - prefix.length);
    const restMax = max === null ? null : max - prefix.length;
    if (rest.op === 'never') return restMin > 0 ? NEVER : this.list(items);
    if (restMax === null || restMax > 0) items.push({ min: restMin, max: restMax, part: rest });
    return this.list(items);
  }

  private list(items: Separated['items']): Expression {
    return this.json.braces('[', ']', {
      op: 'separated',
      separator: this.json.comma,
      items,
      stops: true,
      atLeastOne: false,
    });
  }

  private object(shape: Shape, path: string): Expression {
    const names = shape.propertyNames === true ? null : this.reader.shape(shape.propertyNames, path);
    const patterns = [...shape.patternProperties].map(([pattern, part]) => ({
      test: this.reader.pattern(pattern, path),
      source: pattern,
      part,
    }));
    const items: { min: number; max: number | null; part: Expression }[] = [];
    const declared = new Map(shape.properties);
    for (const name of shape.required) {
      if (declared.has(name)) continue;
      declared.set(name, patterns.some(({ test }) => test.test(name)) ? true : shape.additional);
    }
    for (const [name, own] of declared) {
      let part = own;
      for (const pattern of patterns)
        if (pattern.test.test(name)) part = this.reader.merge(part, pattern.part);
      const allowed = names === null ? true : fits(this.reader, names, name, path);
      if (allowed === null) throw this.reader.unsupported(path, "uses 'propertyNames' with a 'format'");
      const value = allowed ? this.node(part, `${path}/properties/${name}`) : NEVER;
      const required = shape.required.has(name);
      if (value.op === 'never') {
        if (required) return NEVER;
        continue;
      }
      const key = text(JSON.stringify(name));
      items.push({ min: required ? 1 : 0, max: 1, part: sequence(key, this.json.colon, value) });
    }
    const others = this.otherProperties(shape, names, [...declared.keys()], patterns, path);
    return this.withCounts(shape, items, others, path);
  }

  /** Bounds on the number of properties, as far as an order of properties can keep them. */
  private withCounts(
    shape: Shape,
    items: { min: number; max: number | null; part: Expression }[],
    others: Expression,
    path: string,
  ): Expression {
    const required = items.filter(({ min }) => min > 0).length;
    const least = shape.minProperties;
    const most = shape.maxProperties;
    const open = others.op !== 'never';
    if (least > Math.max(1, required)) {
      // Two keys that are not declared might be one.
      const all = open || items.length > least;
      if (all)
        throw this.reader.unsupported(
          path,
          `has 'minProperties' of ${least}, more than its required properties and 1`,
        );
      if (items.length < least) return NEVER;
      for (const item of items) item.min = 1;
    }
    if (most !== null && most < required) return NEVER;
    let otherMost: number | null = null;
    if (most !== null && (open || items.length > most)) {
      if (required !== items.length)
        throw this.reader.unsupported(path, "has 'maxProperties' beside optional properties");
      otherMost = this.count(most - required, 'maxProperties', path);
    }
    if (open && otherMost !== 0) items.push({ min: 0, max: otherMost, part: others });
    const atLeastOne = least > 0 && required === 0;
    if (atLeastOne && items.length === 0) return NEVER;
    return this.json.braces('{', '}', {
      op: 'separated',
      separator: this.json.comma,
      items,
      stops: false,
      atLeastOne,
    });
  }

  /** A property that is not declared: by the patterns its key matches, or by `additionalProperties`. */
  private otherProperties(
    shape: Shape,
    names: Shape | null,
    declared: string[],
    patterns: { source: string; part: SchemaNode }[],
    path: string,
  ): Expression {
    if (names !== null && !names.types.has('string')) return NEVER;
    const bounds = names === null ? null : this.keyBounds(names, path);
    const anyKey = repeat(ANY_STRING_CHARACTER, 0, null);
    const free = bounds === null ? anyKey : bounds;
    const rest = this.node(shape.additional, `${path}/additionalProperties`);
    if (patterns.length === 0 && rest.op === 'never') return NEVER;
    if (patterns.length > 3) throw this.reader.unsupported(path, "has more than three 'patternProperties'");
    const taken = choice(declared.map((name) => text(JSON.stringify(name).slice(1, -1))));
    const undeclared = declared.length === 0 ? free : without(free, taken);
    const keyOf = patterns.map(({ source }) =>
      regexExpression(source, { character: stringCharacter, whole: false, param: this.param }),
    );
    const parts: Expression[] = [];
    // Each set of patterns that a key may match at once; the empty set is what is additional.
    for (let set = 0; set < 1 << patterns.length; set++) {
      let key = undeclared;
      let part: SchemaNode = set === 0 ? shape.additional : true;
      patterns.forEach((pattern, i) => {
        const matched = (set >> i) & 1;
        key = matched ? both(key, keyOf[i] as Expression) : without(key, keyOf[i] as Expression);
        if (matched) part = this.reader.merge(part, pattern.part);
      });
      const value = set === 0 ? rest : this.node(part, `${path}/patternProperties`);
      if (value.op === 'never') continue;
      const string =
        patterns.length === 0 && declared.length === 0 && bounds === null
          ? this.json.string()
          : this.grammar.add(sequence(text('"'), key, text('"')));
      parts.push(sequence(string, this.json.colon, value));
    }
    return choice(parts);
  }

  /** Keys as `propertyNames` wants them. */
  private keyBounds(names: Shape, path: string): Expression | null {
    if (names.groups.length > 0)
      throw this.reader.unsupported(path, "uses 'propertyNames' with 'anyOf' or 'oneOf'");
    if (names.values !== null) {
      const kept = names.values.filter(
        (value): value is string =>
          typeof value === 'string' && fits(this.reader, names, value, path) !== false,
      );
      return choice(kept.map((name) => text(JSON.stringify(name).slice(1, -1))));
    }
    const contents = this.stringContents(names, path);
    if (contents !== null) return contents;
    return names.minLength > 0 || names.maxLength !== null
      ? repeat(
          ANY_STRING_CHARACTER,
          this.count(names.minLength, 'minLength', path),
          names.maxLength === null ? null : this.count(names.maxLength, 'maxLength', path),
        )
      : null;
  }
}

/** Whether a shape constrains nothing but through its groups. */
function saysNothingElse(shape: Shape): boolean {
  return (
    shape.types.size === 6 &&
    shape.values === null &&
    shape.low === null &&
    shape.high === null &&
    shape.minLength === 0 &&
    shape.maxLength === null &&
    shape.patterns.length + shape.formats.length + shape.prefixItems.length === 0 &&
    shape.items === true &&
    shape.minItems === 0 &&
    shape.maxItems === null &&
    shape.properties.size + shape.required.size + shape.patternProperties.size === 0 &&
    shape.additional === true &&
    shape.propertyNames === true &&
    shape.minProperties === 0 &&
    shape.maxProperties === null
  );
}

function copyOf(shape: Shape, groups: Shape['groups']): Shape {
  return {
    ...shape,
    types: new Set(shape.types),
    patterns: [...shape.patterns],
    formats: [...shape.formats],
    prefixItems: [...shape.prefixItems],
    properties: new Map(shape.properties),
    required: new Set(shape.required),
    patternProperties: new Map(shape.patternProperties),
    groups: [...groups],
  };
}
