import { fits, type SchemaReader } from './schema-reader.js';
import { type Json, type SchemaNode, type Shape, same, type TypeName } from './schema-shape.js';

/** Whether a value might satisfy both shapes, as far as looking at them tells: `true` where it cannot be excluded. */
export function alternativesOverlap(reader: SchemaReader, a: Shape, b: Shape, path: string): boolean {
  return overlap(reader, a, b, path, 2);
}

function overlap(reader: SchemaReader, a: Shape, b: Shape, path: string, depth: number): boolean {
  if (a.values !== null)
    return a.values.some((value) => mayFit(reader, a, value, path) && mayBe(reader, b, value, path));
  if (b.values !== null)
    return b.values.some((value) => mayFit(reader, b, value, path) && mayBe(reader, a, value, path));
  return shared(a.types, b.types).some((type) => {
    switch (type) {
      case 'number':
      case 'integer':
        return rangesMeet(a, b);
      case 'string':
        return lengthsMeet(a.minLength, a.maxLength, b.minLength, b.maxLength);
      case 'array':
        return lengthsMeet(a.minItems, a.maxItems, b.minItems, b.maxItems);
      case 'object':
        return !keptApart(reader, a, b, path, depth) && !keptApart(reader, b, a, path, depth);
      default:
        return true;
    }
  });
}

const mayFit = (reader: SchemaReader, shape: Shape, value: Json, path: string) =>
  fits(reader, shape, value, path) !== false;

const mayBe = (reader: SchemaReader, shape: Shape, value: Json, path: string) =>
  (shape.values === null || shape.values.some((other) => same(other, value))) &&
  mayFit(reader, shape, value, path);

function shared(a: ReadonlySet<TypeName>, b: ReadonlySet<TypeName>): TypeName[] {
  const numeric = (types: ReadonlySet<TypeName>) => types.has('number') || types.has('integer');
  const out = [...a].filter((type) => b.has(type) && type !== 'integer' && type !== 'number');
  return numeric(a) && numeric(b) ? [...out, 'number'] : out;
}

function rangesMeet(a: Shape, b: Shape): boolean {
  const before = (x: Shape, y: Shape) =>
    x.high !== null &&
    y.low !== null &&
    (x.high.value < y.low.value || (x.high.value === y.low.value && (x.high.exclusive || y.low.exclusive)));
  return !before(a, b) && !before(b, a);
}

const lengthsMeet = (aMin: number, aMax: number | null, bMin: number, bMax: number | null) =>
  (aMax === null || aMax >= bMin) && (bMax === null || bMax >= aMin);

/** A property that every object of `a` has, and that no object of `b` can have like that. */
function keptApart(reader: SchemaReader, a: Shape, b: Shape, path: string, depth: number): boolean {
  for (const name of a.required) {
    const theirs = valueIn(reader, b, name, path);
    if (theirs === false) return true;
    const ours = valueIn(reader, a, name, path);
    // Where the other may leave it out, an object without it is no object of ours.
    if (depth === 0 || ours === true || theirs === true) continue;
    const x = reader.shape(ours, path);
    const y = reader.shape(theirs, path);
    if (!overlap(reader, x, y, path, depth - 1)) return true;
  }
  return false;
}

/** What a property of a name must be; false where there can be none. */
function valueIn(reader: SchemaReader, shape: Shape, name: string, path: string): SchemaNode {
  const own = shape.properties.get(name);
  if (own !== undefined) return own;
  for (const [pattern, part] of shape.patternProperties)
    if (reader.pattern(pattern, path).test(name)) return part;
  return shape.additional;
}
