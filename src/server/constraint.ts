import type { Constraint, Grammar } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import { ConstraintBuilder, type ConstraintSpec, type Expression } from '../grammar/index.js';
import {
  chars,
  choice,
  EMPTY,
  NEVER,
  optional,
  repeat,
  sequence,
  text,
  without,
} from '../grammar/program.js';
import { ANY } from '../grammar/ranges.js';
import type { Service } from './service.js';
import type { Tool, ToolPlan } from './tools/plan.js';

interface ConstrainedBody {
  response_format?: Record<string, unknown> | null;
  structured_outputs?: Record<string, unknown> | null;
  ignore_eos?: boolean | null;
}

const bad = (param: string, message: string) =>
  new FiligreeError('invalid_value', `'${param}' ${message}`, { param });

function responseFormat(format: Record<string, unknown>): [ConstraintSpec, string] | null {
  switch (format.type) {
    case 'json_object':
      return [{ kind: 'json_object' }, 'response_format'];
    case 'json_schema': {
      const inner = format.json_schema as Record<string, unknown> | null | undefined;
      if (inner === null || typeof inner !== 'object' || inner.schema === undefined)
        throw bad('response_format.json_schema.schema', 'is missing');
      return [{ kind: 'json', schema: inner.schema }, 'response_format.json_schema.schema'];
    }
    default:
      return null;
  }
}

function structuredOutputs(options: Record<string, unknown>): [ConstraintSpec, string] | null {
  const kinds = ['json', 'regex', 'choice', 'grammar', 'json_object'] as const;
  const given = kinds.filter((kind) => (options[kind] ?? null) !== null && options[kind] !== false);
  const unknown = Object.keys(options).find(
    (key) => !(kinds as readonly string[]).includes(key) && options[key] != null,
  );
  if (unknown !== undefined)
    throw new FiligreeError(
      'unsupported_value',
      `'structured_outputs.${unknown.slice(0, 60)}' is not supported`,
      {
        param: 'structured_outputs',
      },
    );
  if (given.length > 1)
    throw bad('structured_outputs', `has both '${given[0]}' and '${given[1]}': one is meant`);
  const [kind] = given;
  if (kind === undefined) return null;
  const param = `structured_outputs.${kind}`;
  const value = options[kind];
  if (kind === 'json_object') {
    if (value !== true) throw bad(param, 'must be true or false');
    return [{ kind: 'json_object' }, param];
  }
  if (kind === 'choice') {
    if (!Array.isArray(value) || value.some((item) => typeof item !== 'string'))
      throw bad(param, 'must be a list of texts');
    return [{ kind, choices: value as string[] }, param];
  }
  if (kind === 'json') {
    if (typeof value !== 'string') return [{ kind, schema: value }, param];
    try {
      return [{ kind, schema: JSON.parse(value) }, param];
    } catch {
      throw bad(param, 'is not JSON');
    }
  }
  if (typeof value !== 'string') throw bad(param, 'must be a text');
  return [kind === 'regex' ? { kind, pattern: value } : { kind, source: value }, param];
}

/** Compiled constraints, the least recently used dropped first: the same schema comes with every request of a program. */
const MOST_CACHED = 16;
const caches = new WeakMap<object, Map<string, Promise<Grammar>>>();

/**
 * What the answer must be, compiled; null where it is free.
 * @throws FiligreeError naming the parameter and what cannot be honoured
 */
export async function planConstraint(
  service: Service,
  body: ConstrainedBody,
  tools: ToolPlan | null,
  continuation: boolean,
): Promise<Constraint | null> {
  const format = body.response_format ? responseFormat(body.response_format) : null;
  const structured = body.structured_outputs ? structuredOutputs(body.structured_outputs) : null;
  if (format && structured) throw bad('structured_outputs', "excludes 'response_format'");
  const spec = structured ?? format;
  const calls = tools !== null && (tools.required || tools.callable.some((tool) => tool.strict));
  if (spec === null && !calls) return null;
  const param = spec?.[1] ?? 'tools';
  const { grammars } = service.model;
  if (!grammars)
    throw new FiligreeError('unsupported_value', `'${param}': this server cannot constrain its output`, {
      param,
    });
  if (body.ignore_eos) throw bad('ignore_eos', `excludes '${param}': the output ends where it is complete`);

  const key = JSON.stringify([
    spec?.[0],
    calls && [tools.family.name, tools.required, tools.parallel, tools.callable.map((t) => t.raw)],
  ]);
  const cache = caches.get(grammars) ?? new Map<string, Promise<Grammar>>();
  caches.set(grammars, cache);
  let grammar = cache.get(key);
  if (grammar === undefined) {
    const builder = new ConstraintBuilder();
    let start = spec && builder.expression(spec[0], spec[1]);
    if (calls) start = withCalls(service, builder, tools, start);
    grammar = compile(service, builder, start as Expression, param);
    grammar.catch(() => cache.delete(key));
  }
  cache.delete(key);
  cache.set(key, grammar);
  if (cache.size > MOST_CACHED) cache.delete(cache.keys().next().value as string);
  return { grammar: await grammar, continuation };
}

async function compile(
  service: Service,
  builder: ConstraintBuilder,
  start: Expression,
  param: string,
): Promise<Grammar> {
  try {
    return await (service.model.grammars as NonNullable<typeof service.model.grammars>).compile(
      builder.grammar.encode(start),
    );
  } catch (error) {
    if (error instanceof FiligreeError || !(error instanceof Error)) throw error;
    throw new FiligreeError('invalid_value', `'${param}': ${error.message}`, { param, cause: error });
  }
}

/** Calls as the model's family writes them, alone or behind the text that the model may write instead. */
function withCalls(
  service: Service,
  builder: ConstraintBuilder,
  plan: ToolPlan,
  format: Expression | null,
): Expression {
  const { family, required } = plan;
  const call = choice(plan.callable.map((tool) => callOf(builder, plan, tool)));
  const marker = family.marker === null ? EMPTY : markerOf(service, family.marker);
  const end = family.end === null ? EMPTY : markerOf(service, family.end);
  const most = plan.parallel ? null : 1;
  const separated = (part: Expression, separator: string): Expression => ({
    op: 'separated',
    separator: text(separator),
    items: [{ min: 1, max: most, part }],
    stops: true,
    atLeastOne: true,
  });
  const calls = family.list
    ? sequence(marker, text('['), separated(call, ', '), text(']'), end)
    : family.marker === null
      ? call
      : separated(sequence(marker, text('\n'), call, text('\n'), end), '\n');
  if (required) return calls;
  if (format !== null) return choice([format, calls]);
  const anything = repeat(chars(...ANY), 0, null);
  if (family.marker === null)
    return choice([
      calls,
      without(anything, sequence(repeat(chars([9, 10], [13, 13], [32, 32]), 0, null), text('{'), anything)),
    ]);
  return sequence(without(anything, sequence(anything, text(family.marker), anything)), optional(calls));
}

function markerOf(service: Service, marker: string): Expression {
  const { tokenizer } = service.model;
  const id = tokenizer.tokenId(marker);
  return id !== null && (tokenizer.isAdded(id) || tokenizer.isControl(id))
    ? { op: 'token', id }
    : text(marker);
}

function callOf(builder: ConstraintBuilder, { family, tools }: ToolPlan, tool: Tool): Expression {
  const i = tools.indexOf(tool);
  let argumentsText: Expression = builder.json.object;
  if (tool.parameters !== undefined) {
    try {
      argumentsText = builder.schema(tool.parameters, `tools[${i}].function.parameters`);
    } catch (error) {
      // Only `strict` promises more than an object.
      if (tool.strict) throw error;
    }
  }
  if (argumentsText === NEVER)
    throw bad(`tools[${i}].function.parameters`, 'is a schema that nothing satisfies');
  return sequence(
    text(`{"name": ${JSON.stringify(tool.name)}, "${family.argumentsKey}": `),
    argumentsText,
    text('}'),
  );
}
