import { infillOf } from '../../tokenizer/index.js';
import { either, given, type Restriction, unlessGiven } from './told.js';

// Values that depend on the model.

export const inVocabulary: Restriction = ({ engine }) => ({ maximum: engine.info.vocabSize - 1 });

/** A prompt has a token at least. */
export const belowContext: Restriction = ({ engine }) => ({ maximum: engine.info.maxModelLen - 1 });

export const upToHiddenSize: Restriction = ({ engine }) => ({ maximum: engine.info.hiddenSize });

/** Decimal numbers below a bound, leading zeros and all: as many digits, of which the first that differs is smaller, or fewer. */
export function below(bound: number): string {
  const digits = String(bound);
  const smaller = [...digits].flatMap((digit, i) =>
    digit === '0' ? [] : [`${digits.slice(0, i)}[0-${Number(digit) - 1}][0-9]{${digits.length - 1 - i}}`],
  );
  if (digits.length > 1) smaller.push(`[0-9]{1,${digits.length - 1}}`);
  return `^0*(${smaller.join('|')})$`;
}

export const tokenKeys: Restriction = ({ engine }) => ({
  propertyNames: { pattern: below(engine.info.vocabSize) },
});

const noSuffix = { properties: { suffix: { maxLength: 0 } } };
const oneTextAround = {
  required: ['prompt'],
  properties: { prompt: { type: 'string' }, truncate_prompt_tokens: { type: 'null' } },
};
const infill: Restriction = ({ model }) =>
  infillOf(model.tokenizer) === null ? noSuffix : either(noSuffix, oneTextAround);

export const notZero = { not: { const: 0 } };

// Functions and their calls.

const functionName = { type: 'string', pattern: '^[A-Za-z0-9_.-]{1,128}$' };
const json = { type: 'string', contentMediaType: 'application/json' };
const someText = { type: 'string', minLength: 1 };
const objectOrNull = { type: ['object', 'null'] };

export const chatFunction = {
  required: ['type', 'function'],
  properties: {
    type: { const: 'function' },
    function: {
      type: 'object',
      required: ['name'],
      properties: { name: functionName, parameters: objectOrNull },
    },
  },
};
export const responseFunction = {
  required: ['type', 'name'],
  properties: { type: { const: 'function' }, name: functionName, parameters: objectOrNull },
};
export const messageFunction = {
  required: ['name'],
  properties: { name: functionName, type: { enum: ['custom', null] }, input_schema: objectOrNull },
};

export const functionCall = {
  required: ['function'],
  properties: {
    function: {
      type: 'object',
      required: ['name'],
      properties: {
        name: functionName,
        arguments: either(json, { type: ['object', 'array', 'number', 'boolean', 'null'] }),
      },
    },
  },
};

export const namesFunction = given('function', { type: 'object', ...given('name', { type: 'string' }) });
export const namesResponseFunction = either(
  { required: ['type', 'name'], properties: { type: { const: 'function' }, name: { type: 'string' } } },
  namesFunction,
);
export const namesTool = either(
  { properties: { type: { enum: ['auto', 'any', 'none'] } } },
  given('name', someText),
);

const someTools = given('tools', { type: 'array', minItems: 1 });
const choosesFromTools = either(unlessGiven('tool_choice', 'none', 'auto'), someTools);
export const choosesTool = either(
  {
    properties: { tool_choice: either({ type: 'null' }, given('type', { enum: ['auto', 'none'] })) },
  },
  someTools,
);

// Messages.

const text = {
  required: ['type', 'text'],
  properties: { type: { const: 'text' }, text: { type: 'string' } },
};
export const textPart = text;

export const hasContent = either(given('role', { const: 'assistant' }), {
  required: ['content'],
  properties: { content: { type: ['string', 'array'] } },
});

const toolUse = {
  required: ['type', 'id', 'name'],
  properties: { type: { const: 'tool_use' }, id: someText, name: functionName },
};
const toolResult = {
  required: ['type', 'tool_use_id'],
  properties: {
    type: { const: 'tool_result' },
    tool_use_id: someText,
    content: either({ type: ['string', 'null'] }, { type: 'array', items: { type: 'object', ...text } }),
  },
};
const thought = given('type', { enum: ['thinking', 'redacted_thinking'] });
const turn = (role: string, ...blocks: object[]) => ({
  required: ['role'],
  properties: { role: { const: role }, content: { items: either(...blocks) } },
});
export const blocksOfRole = either(
  turn('user', text, toolResult),
  turn('assistant', text, toolUse, thought),
  turn('system', text),
);
export const systemText = either({ type: ['string', 'null'] }, { items: text });

// Items of a response.

const responseText = {
  required: ['type', 'text'],
  properties: { type: { enum: ['input_text', 'output_text', 'text'] }, text: { type: 'string' } },
};
const refusal = {
  required: ['type', 'refusal'],
  properties: { type: { const: 'refusal' }, refusal: { type: 'string' } },
};
const responseContent = either(
  { type: 'string' },
  { type: 'array', items: { type: 'object', ...either(responseText, refusal) } },
);
const reasoning = given('type', { const: 'reasoning' });
export const inputItem = either(
  {
    required: ['role', 'content'],
    properties: {
      type: { enum: ['message', null] },
      role: { enum: ['system', 'developer', 'user', 'assistant'] },
      content: responseContent,
    },
  },
  {
    required: ['type', 'call_id', 'name', 'arguments'],
    properties: {
      type: { const: 'function_call' },
      call_id: someText,
      name: functionName,
      arguments: { ...json, minLength: 1 },
    },
  },
  {
    required: ['type', 'call_id', 'output'],
    properties: { type: { const: 'function_call_output' }, call_id: someText, output: responseContent },
  },
  reasoning,
);
export const notOnlyReasoning = { contains: { not: reasoning } };

// Constraints of the answer.

const aSchema = { type: ['object', 'boolean'] };
const unconstrainedType = given('type', { enum: ['text', 'json_object'] });
export const formatHasSchema = either(
  unconstrainedType,
  given('json_schema', { type: 'object', ...given('schema', aSchema) }),
);
export const responseFormatHasSchema = either(unconstrainedType, given('schema', aSchema));

const CONSTRAINTS = {
  json: either(aSchema, json),
  regex: { type: 'string', format: 'regex' },
  choice: { type: 'array', items: { type: 'string' }, minItems: 1 },
  grammar: { type: 'string' },
  json_object: { type: 'boolean' },
};
const absent = { enum: [null, false] };
const noConstraint = Object.fromEntries(Object.keys(CONSTRAINTS).map((kind) => [kind, absent]));
export const oneConstraint = either(
  { type: 'null' },
  ...Object.entries(CONSTRAINTS).map(([kind, schema]) => ({
    properties: { ...noConstraint, [kind]: either(schema, absent) },
    additionalProperties: { type: 'null' },
  })),
);

const unconstrained = { properties: { structured_outputs: { enum: [null, {}] } } };
const plain = either({ type: 'null' }, given('type', { const: 'text' }));
const plainFormat = { properties: { response_format: plain } };
const plainText = {
  properties: { text: either({ type: 'null' }, { properties: { format: plain } }) },
};

// What relates the parameters of one body. Each is a choice of two, and a reader of the document has to try all combinations: what is
// told here is what schemathesis can still enumerate. The rest stands in descriptions.

const streaming = either(
  { required: ['stream'], properties: { stream: { const: true }, prompt_logprobs: { type: 'null' } } },
  { properties: { stream: { enum: [false, null] }, stream_options: { type: 'null' } } },
);
const eitherOpens = either(
  unlessGiven('continue_final_message', false),
  unlessGiven('add_generation_prompt', false),
);

export const OF_CHAT = [streaming, either(unconstrained, plainFormat), eitherOpens, choosesFromTools];
export const OF_COMPLETION = [streaming, either(unconstrained, plainFormat), infill];
export const OF_TEMPLATE = [eitherOpens, choosesFromTools];
export const OF_TOKENIZE = [
  ...OF_TEMPLATE,
  either(given('prompt', { type: 'string' }), { required: ['messages'] }),
];
export const OF_RESPONSE = [
  either(unlessGiven('background', false), {
    properties: { store: { enum: [true, null] }, stream: { enum: [false, null] } },
  }),
  choosesFromTools,
  either(unconstrained, plainText),
];
