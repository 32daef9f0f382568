import type { FiligreeError } from '../errors.js';
import {
  anyShape,
  hasType,
  intersectTypes,
  type Json,
  type SchemaNode,
  type Shape,
  same,
  schemaError,
  TYPES,
  type TypeName,
  tighterHigh,
  tighterLow,
} from './schema-shape.js';

/** Keywords that say nothing about which values are valid. */
const ANNOTATIONS = new Set(
  '$schema $id id $comment $defs definitions $anchor $vocabulary title description default examples example deprecated readOnly writeOnly contentMediaType contentEncoding contentSchema strict'.split(
    ' ',
  ),
);
/** Keywords that no automaton of ours can honour: refused by name, never ignored. */
const UNSUPPORTED = new Set(
  'not if then else contains minContains maxContains dependentRequired dependentSchemas dependencies unevaluatedProperties unevaluatedItems multipleOf divisibleBy disallow extends $dynamicRef $dynamicAnchor $recursiveRef $recursiveAnchor'.split(
    ' ',
  ),
);

const MAX_DEPTH = 120;
const MAX_NODES = 50_000;

/** Reads schema nodes into shapes, following references. */
export class SchemaReader {
  private readonly ids = new Map<SchemaNode, number>();
  private readonly merged = new Map<string, SchemaNode>();
  private readonly anchors = new Map<string, SchemaNode>();
  private visits = 0;

  constructor(
    readonly root: SchemaNode,
    readonly param: string,
  ) {
    this.scan(root as Json, 0);
  }

  /** Both of two schemas; the same two always give the same node, so that recursion through `allOf` ends. */
  merge(a: SchemaNode, b: SchemaNode): SchemaNode {
    if (a === true || a === b) return b;
    if (b === true) return a;
    if (a === false || b === false) return false;
    const key = `${this.id(a)} ${this.id(b)}`;
    let node = this.merged.get(key);
    if (node === undefined) {
      node = { allOf: [a, b] };
      this.merged.set(key, node);
    }
    return node;
  }

  shape(node: SchemaNode, path: string): Shape {
    const shape = anyShape();
    this.absorb(shape, node, path, 0);
    return shape;
  }

  /** The schema that a node means where it is nothing but a reference. */
  follow(node: SchemaNode, path: string): SchemaNode {
    let here = node;
    const seen = new Set<SchemaNode>();
    while (typeof here === 'object') {
      const keys = Object.keys(here).filter((key) => !ANNOTATIONS.has(key));
      const [only] = keys;
      if (keys.length !== 1 || (only !== '$ref' && only !== 'allOf')) return here;
      if (seen.has(here)) throw this.error(path, 'refers to itself');
      seen.add(here);
      const value = here[only];
      if (only === '$ref') here = this.resolve(value as Json, path);
      else if (Array.isArray(value) && value.length === 1) here = this.node(value[0] as Json, path);
      else return here;
    }
    return here;
  }

  error(path: string, what: string): FiligreeError {
    return schemaError('invalid_value', this.param, path, what);
  }

  unsupported(path: string, what: string): FiligreeError {
    return schemaError('unsupported_value', this.param, path, what);
  }

  /** Adds all that a node says. @throws FiligreeError naming what cannot be honoured */
  absorb(shape: Shape, node: SchemaNode, path: string, depth: number): void {
    if (depth > MAX_DEPTH) throw this.error(path, 'is nested or refers too deeply');
    if (++this.visits > MAX_NODES) throw this.error(path, 'is too large');
    if (node === true) return;
    if (node === false) {
      shape.types.clear();
      return;
    }
    for (const key of Object.keys(node)) {
      if (UNSUPPORTED.has(key)) throw this.unsupported(path, `uses '${key}', which is not supported`);
    }
    if (node.$ref !== undefined) this.absorb(shape, this.resolve(node.$ref, path), path, depth + 1);
    for (const [i, part] of this.list(node, 'allOf', path).entries())
      this.absorb(shape, this.node(part, path), `${path}/allOf/${i}`, depth + 1);
    for (const key of ['anyOf', 'oneOf'] as const) {
      if (node[key] === undefined) continue;
      const alternatives = this.list(node, key, path).map((part) => this.node(part, path));
      shape.groups.push({ exclusive: key === 'oneOf', alternatives, path: `${path}/${key}` });
    }
    this.absorbValues(shape, node, path);
    this.absorbNumbers(shape, node, path);
    this.absorbStrings(shape, node, path);
    this.absorbArrays(shape, node, path);
    this.absorbObjects(shape, node, path);
  }

  private absorbValues(shape: Shape, node: { [key: string]: Json }, path: string): void {
    if (node.type !== undefined) {
      const names = Array.isArray(node.type) ? node.type : [node.type];
      const bad = names.find((name) => !TYPES.includes(name as TypeName));
      if (bad !== undefined || names.length === 0)
        throw this.error(path, `has the type ${JSON.stringify(bad)}, which is none of ${TYPES.join(', ')}`);
      const types = new Set(names as TypeName[]);
      if (types.has('number')) types.delete('integer');
      shape.types = intersectTypes(shape.types, types);
    }
    const lists: Json[][] = [];
    if (node.const !== undefined) lists.push([node.const]);
    if (node.enum !== undefined) {
      if (!Array.isArray(node.enum)) throw this.error(path, "has an 'enum' that is no list");
      lists.push(node.enum);
    }
    for (const list of lists) {
      const before = shape.values;
      shape.values =
        before === null ? list : before.filter((value) => list.some((other) => same(value, other)));
    }
  }

  private absorbNumbers(shape: Shape, node: { [key: string]: Json }, path: string): void {
    const number = (key: string): number | null => {
      const value = node[key];
      if (value === undefined) return null;
      if (typeof value !== 'number') throw this.error(path, `has a '${key}' that is no number`);
      return value;
    };
    // Draft 4 writes exclusive bounds as a boolean beside the bound.
    const flag = (key: string) => (typeof node[key] === 'boolean' ? (node[key] as boolean) : null);
    const minimum = number('minimum');
    const maximum = number('maximum');
    const lowFlag = flag('exclusiveMinimum');
    const highFlag = flag('exclusiveMaximum');
    if (minimum !== null) shape.low = tighterLow(shape.low, { value: minimum, exclusive: lowFlag ?? false });
    if (maximum !== null)
      shape.high = tighterHigh(shape.high, { value: maximum, exclusive: highFlag ?? false });
    const above = lowFlag === null ? number('exclusiveMinimum') : null;
    const below = highFlag === null ? number('exclusiveMaximum') : null;
    if (above !== null) shape.low = tighterLow(shape.low, { value: above, exclusive: true });
    if (below !== null) shape.high = tighterHigh(shape.high, { value: below, exclusive: true });
  }

  private absorbStrings(shape: Shape, node: { [key: string]: Json }, path: string): void {
    shape.minLength = Math.max(shape.minLength, this.count(node, 'minLength', path) ?? 0);
    shape.maxLength = least(shape.maxLength, this.count(node, 'maxLength', path));
    for (const [key, list] of [
      ['pattern', shape.patterns],
      ['format', shape.formats],
    ] as const) {
      const value = node[key];
      if (value === undefined) continue;
      if (typeof value !== 'string') throw this.error(path, `has a '${key}' that is no string`);
      if (!list.includes(value)) list.push(value);
    }
  }

  private absorbArrays(shape: Shape, node: { [key: string]: Json }, path: string): void {
    if (node.uniqueItems === true) {
      const most = this.count(node, 'maxItems', path);
      if (most === null || most > 1)
        throw this.unsupported(path, "uses 'uniqueItems', which is not supported");
    }
    shape.minItems = Math.max(shape.minItems, this.count(node, 'minItems', path) ?? 0);
    shape.maxItems = least(shape.maxItems, this.count(node, 'maxItems', path));
    // Before draft 2020-12 a list of `items` was the prefix, and `additionalItems` what follows.
    const old = Array.isArray(node.items);
    const prefix = old ? (node.items as Json[]) : this.list(node, 'prefixItems', path);
    const restKey = old ? 'additionalItems' : 'items';
    const rest = node[restKey] === undefined ? true : this.node(node[restKey], `${path}/${restKey}`);
    const theirs = prefix.map((item) => this.node(item, path));
    const length = Math.max(theirs.length, shape.prefixItems.length);
    shape.prefixItems = Array.from({ length }, (_, i) =>
      this.merge(shape.prefixItems[i] ?? shape.items, theirs[i] ?? rest),
    );
    shape.items = this.merge(shape.items, rest);
  }

  private absorbObjects(shape: Shape, node: { [key: string]: Json }, path: string): void {
    const record = (key: string): [string, SchemaNode][] => {
      const value = node[key];
      if (value === undefined) return [];
      if (value === null || typeof value !== 'object' || Array.isArray(value))
        throw this.error(path, `has '${key}' that are no object`);
      return Object.entries(value).map(([name, part]) => [name, this.node(part, `${path}/${key}/${name}`)]);
    };
    const properties = new Map(record('properties'));
    const patterns = new Map(record('patternProperties'));
    const additional =
      node.additionalProperties === undefined
        ? true
        : this.node(node.additionalProperties, `${path}/additionalProperties`);
    const matches = (patterns: Map<string, SchemaNode>, name: string) =>
      [...patterns].filter(([pattern]) => this.pattern(pattern, path).test(name));
    // What one side does not name falls under the other's additional properties.
    const restOf = (name: string, own: Map<string, SchemaNode>, rest: SchemaNode): SchemaNode =>
      matches(own, name).length > 0 ? true : rest;
    for (const [name, part] of shape.properties) {
      const other = properties.get(name) ?? restOf(name, patterns, additional);
      shape.properties.set(name, this.merge(part, other));
    }
    for (const [name, part] of properties) {
      if (shape.properties.has(name)) continue;
      shape.properties.set(name, this.merge(restOf(name, shape.patternProperties, shape.additional), part));
    }
    // A key that one schema's pattern matches is additional to the other: one list of patterns cannot say both.
    if (
      (shape.patternProperties.size > 0 && additional !== true) ||
      (patterns.size > 0 && shape.additional !== true)
    )
      throw this.unsupported(
        path,
        "merges 'patternProperties' with 'additionalProperties' of another schema",
      );
    for (const [pattern, part] of patterns)
      shape.patternProperties.set(pattern, this.merge(shape.patternProperties.get(pattern) ?? true, part));
    shape.additional = this.merge(shape.additional, additional);
    if (node.propertyNames !== undefined)
      shape.propertyNames = this.merge(shape.propertyNames, this.node(node.propertyNames, path));
    if (node.required !== undefined && typeof node.required !== 'boolean') {
      for (const name of this.list(node, 'required', path)) {
        if (typeof name !== 'string') throw this.error(path, "has a 'required' name that is no string");
        shape.required.add(name);
      }
    }
    shape.minProperties = Math.max(shape.minProperties, this.count(node, 'minProperties', path) ?? 0);
    shape.maxProperties = least(shape.maxProperties, this.count(node, 'maxProperties', path));
  }

  pattern(source: string, path: string): RegExp {
    try {
      return new RegExp(source, 'u');
    } catch {
      throw this.error(path, `has the malformed pattern ${JSON.stringify(source.slice(0, 80))}`);
    }
  }

  node(value: Json | undefined, path: string): SchemaNode {
    if (typeof value === 'boolean') return value;
    if (value === null || typeof value !== 'object' || Array.isArray(value))
      throw this.error(path, 'must be an object or a boolean');
    return value;
  }

  private list(node: { [key: string]: Json }, key: string, path: string): Json[] {
    const value = node[key];
    if (value === undefined) return [];
    if (!Array.isArray(value)) throw this.error(path, `has '${key}' that is no list`);
    return value;
  }

  private count(node: { [key: string]: Json }, key: string, path: string): number | null {
    const value = node[key];
    if (value === undefined) return null;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
      throw this.error(path, `has a '${key}' that is no count`);
    return value;
  }

  private id(node: SchemaNode): number {
    let id = this.ids.get(node);
    if (id === undefined) {
      id = this.ids.size;
      this.ids.set(node, id);
    }
    return id;
  }

  private resolve(reference: Json, path: string): SchemaNode {
    if (typeof reference !== 'string') throw this.error(path, "has a '$ref' that is no string");
    const rootId = typeof this.root === 'object' ? this.root.$id : undefined;
    let local = reference;
    if (typeof rootId === 'string' && local.startsWith(rootId) && /^(#|$)/.test(local.slice(rootId.length)))
      local = local.slice(rootId.length) || '#';
    const found = local.startsWith('#') ? this.lookUp(local.slice(1)) : undefined;
    if (found !== undefined) return this.node(found, path);
    const what = `'$ref' to '${reference.slice(0, 120)}'`;
    if (!local.startsWith('#'))
      throw this.unsupported(path, `has a ${what}: only references within the schema are`);
    throw this.error(path, `has a ${what}, which does not exist`);
  }

  private lookUp(fragment: string): Json | undefined {
    let decoded: string;
    try {
      decoded = decodeURIComponent(fragment);
    } catch {
      return undefined;
    }
    if (decoded !== '' && !decoded.startsWith('/')) return this.anchors.get(decoded) as Json | undefined;
    let value: Json | undefined = this.root as Json;
    for (const part of decoded.split('/').slice(1)) {
      const key = part.replaceAll('~1', '/').replaceAll('~0', '~');
      if (value === null || typeof value !== 'object') return undefined;
      if (!Object.hasOwn(value, key)) return undefined;
      value = (value as { [key: string]: Json })[key];
    }
    return value;
  }

  /** Anchors, and what a schema may not hold anywhere. */
  private scan(value: Json, depth: number): void {
    if (value === null || typeof value !== 'object') return;
    if (depth > 4 * MAX_DEPTH) throw this.error('', 'is nested too deeply');
    if (++this.visits > 4 * MAX_NODES) throw this.error('', 'is too large');
    if (!Array.isArray(value) && typeof value.$anchor === 'string') this.anchors.set(value.$anchor, value);
    for (const item of Array.isArray(value) ? value : Object.values(value)) this.scan(item, depth + 1);
    if (depth === 0) this.visits = 0;
  }
}

/** Whether a value fits the parts of a shape that speak of single values; null where that takes more than looking. */
export function fits(reader: SchemaReader, shape: Shape, value: Json, path: string): boolean | null {
  if (!hasType(shape.types, value)) return false;
  if (typeof value === 'number') {
    const { low, high } = shape;
    if (low !== null && (value < low.value || (low.exclusive && value === low.value))) return false;
    return !(high !== null && (value > high.value || (high.exclusive && value === high.value)));
  }
  if (typeof value === 'string') {
    const length = [...value].length;
    if (length < shape.minLength || length > (shape.maxLength ?? Number.POSITIVE_INFINITY)) return false;
    if (shape.formats.length > 0) return null;
    return shape.patterns.every((pattern) => reader.pattern(pattern, path).test(value));
  }
  if (Array.isArray(value)) {
    if (value.length < shape.minItems || value.length > (shape.maxItems ?? Number.POSITIVE_INFINITY))
      return false;
    return shape.prefixItems.length === 0 && shape.items === true ? true : null;
  }
  if (value !== null && typeof value === 'object') {
    const count = Object.keys(value).length;
    if (count < shape.minProperties || count > (shape.maxProperties ?? Number.POSITIVE_INFINITY))
      return false;
    if ([...shape.required].some((name) => !Object.hasOwn(value, name))) return false;
    const free = shape.properties.size === 0 && shape.patternProperties.size === 0;
    return free && shape.additional === true && shape.propertyNames === true ? true : null;
  }
  return true;
}

const least = (a: number | null, b: number | null): number | null =>
  a === null ? b : b === null ? a : Math.min(a, b);
