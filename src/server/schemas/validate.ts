import type { Static, TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { FiligreeError } from '../../errors.js';

type SchemaError = ReturnType<ReturnType<typeof Compile>['Errors']>[number];

/** `/messages/0/content` as a client would write it: `messages[0].content`. */
export function paramOf(pointer: string): string {
  return pointer
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce(
      (path, part) => (/^\d+$/.test(part) ? `${path}[${part}]` : path === '' ? part : `${path}.${part}`),
      '',
    );
}

/** A primitive as JSON, anything larger by its kind: a hostile body may nest deeper than a stack. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function valueAt(root: unknown, pointer: string): unknown {
  let value: unknown = root;
  for (const part of pointer.split('/').slice(1)) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<string, unknown>)[part.replaceAll('~1', '/').replaceAll('~0', '~')];
  }
  return value;
}

function expectation(error: SchemaError): string {
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case 'type':
      return ([] as unknown[]).concat(params.type).join(' or ');
    case 'enum':
      return `one of ${(params.allowedValues as unknown[]).map(describe).join(', ')}`;
    case 'const':
      return describe(params.allowedValue);
    default:
      return error.message.replace(/^must /, '');
  }
}

/**
 * The one complaint to show. A union reports the failures of every branch: where one branch failed deeper inside the
 * value, its type was meant and its complaint is the useful one; otherwise the alternatives are listed.
 */
function toFiligreeError(errors: SchemaError[], root: unknown): FiligreeError {
  const first = errors[0]!;
  const union = errors.find(
    (e) => e.keyword === 'anyOf' && first.schemaPath.startsWith(`${e.schemaPath}/anyOf`),
  );
  let chosen = first;
  let wanted = '';
  if (union) {
    const branches = errors.filter(
      (e) => e.schemaPath.startsWith(`${union.schemaPath}/anyOf`) && e !== union,
    );
    const deepest = branches.reduce((a, b) => (b.instancePath.length > a.instancePath.length ? b : a));
    chosen = deepest.instancePath.length > union.instancePath.length ? deepest : union;
    if (chosen === union) wanted = [...new Set(branches.map(expectation))].join(' or ');
  }
  if (chosen.keyword === 'required') {
    const missing = (chosen.params as { requiredProperties: string[] }).requiredProperties[0]!;
    const param = paramOf(`${chosen.instancePath}/${missing}`);
    return new FiligreeError('invalid_value', `'${param}' is missing`, { param });
  }
  const param = paramOf(chosen.instancePath);
  const found = describe(valueAt(root, chosen.instancePath));
  const must = wanted || expectation(chosen);
  const verb = /^(be|have|not|match) /.test(must) ? 'must' : 'must be';
  return new FiligreeError('invalid_value', `'${param || 'body'}' ${verb} ${must}, found ${found}`, {
    param: param || null,
  });
}

/**
 * A check that returns the value as the schema's type.
 * @throws FiligreeError invalid_value that names the parameter
 */
export function validator<T extends TSchema>(schema: T): (value: unknown) => Static<T> {
  const compiled = Compile(schema);
  return (value) => {
    if (compiled.Check(value)) return value as Static<T>;
    throw toFiligreeError(compiled.Errors(value) as SchemaError[], value);
  };
}
