import Type, { type TSchema } from 'typebox';
import {
  belowContext,
  chatFunction,
  formatHasSchema,
  functionCall,
  hasContent,
  inVocabulary,
  namesFunction,
  notZero,
  oneConstraint,
  textPart,
  tokenKeys,
} from './restrictions.js';
import { told } from './told.js';

/**
 * Clients send `null` for what they leave out, so every optional parameter takes it. One JSON Schema `type` list
 * rather than a union: the complaint about a bad value then names the bound it broke.
 */
const orNull = <T>(type: string, options: Record<string, unknown>) =>
  Type.Optional(Type.Unsafe<T | null>({ type: [type, 'null'], ...options }));

export const number = (description: string, bounds: Record<string, unknown> = {}) =>
  orNull<number>('number', { description, ...bounds });
export const integer = (description: string, bounds: Record<string, unknown> = {}) =>
  orNull<number>('integer', { description, ...bounds });
export const boolean = (description: string) => orNull<boolean>('boolean', { description });
export const string = (description: string, bounds: Record<string, unknown> = {}) =>
  orNull<string>('string', { description, ...bounds });
export const object = (description: string, bounds: Record<string, unknown> = {}) =>
  orNull<Record<string, unknown>>('object', { description, ...bounds });
export const list = <T>(items: TSchema, description: string, bounds: Record<string, unknown> = {}) =>
  orNull<T[]>('array', { items, description, ...bounds });

const INT32_MAX = 2 ** 31 - 1;
export const tokenId = Type.Integer({ minimum: 0, maximum: INT32_MAX, ...told(inVocabulary) });

/** A number of tokens that an answer may have. */
export const tokenLimit = (description: string, minimum: 0 | 1) =>
  integer(description, { minimum, maximum: INT32_MAX, ...told(belowContext) });

/** Parameters that the chat and the text completion share. */
export const samplingFields = {
  temperature: number('Softness of the distribution; 0 always takes the most likely token.', {
    minimum: 0,
    maximum: 2,
  }),
  top_p: number('Nucleus: the smallest set of tokens with this probability.', { minimum: 0, maximum: 1 }),
  top_k: integer('Only the k most likely tokens; 0 and -1 take all.', { minimum: -1, maximum: INT32_MAX }),
  min_p: number('Only tokens with this share of the most likely one.', { minimum: 0, maximum: 1 }),
  repetition_penalty: number('Divides the logits of tokens seen in prompt or answer.', {
    exclusiveMinimum: 0,
    maximum: 100,
  }),
  frequency_penalty: number('Lowers a token by how often the answer has it.', { minimum: -2, maximum: 2 }),
  presence_penalty: number('Lowers a token that the answer has.', { minimum: -2, maximum: 2 }),
  logit_bias: Type.Optional(
    Type.Union(
      [
        Type.Record(Type.String(), Type.Number({ minimum: -100, maximum: 100 }), told(tokenKeys)),
        Type.Null(),
      ],
      {
        description: 'Token id to a value added to its logit.',
      },
    ),
  ),
  allowed_token_ids: list<number>(tokenId, 'Only these tokens may be drawn.', { minItems: 1 }),
  bad_words: list<string>(Type.String({ minLength: 1 }), 'Words that must not appear.', { maxItems: 1024 }),
  seed: integer('Key of the random stream: the same request gives the same answer.'),
  n: integer('Answers to each prompt.', { minimum: 1, maximum: 128 }),
  max_tokens: tokenLimit('Most tokens of an answer.', 0),
  min_tokens: integer(
    'Tokens before the end of sequence, a stop token or a stop string may end the answer.',
    {
      minimum: 0,
      maximum: INT32_MAX,
    },
  ),
  stop: Type.Optional(
    Type.Union(
      [
        Type.String({ minLength: 1 }),
        Type.Array(Type.String({ minLength: 1 }), { maxItems: 64 }),
        Type.Null(),
      ],
      { description: 'Strings that end the answer.' },
    ),
  ),
  stop_token_ids: list<number>(tokenId, 'Tokens that end the answer.', { maxItems: 1024 }),
  ignore_eos: boolean('The end of sequence does not end the answer.'),
  include_stop_str_in_output: boolean('Keep the stop string in the text.'),
  skip_special_tokens: boolean('Leave control tokens out of the text (default true).'),
  truncate_prompt_tokens: integer(
    'Keep only the last k tokens of the prompt; -1: as many as the model takes.',
    {
      minimum: -1,
      maximum: INT32_MAX,
      ...told(notZero),
    },
  ),
  prompt_logprobs: integer("Log-probabilities of the prompt's tokens, with the k most likely.", {
    minimum: 0,
    maximum: 20,
  }),
  return_token_ids: boolean('Add `prompt_token_ids` and `token_ids`.'),
  stream: boolean('Send the answer as it is written, as server-sent events.'),
  stream_options: Type.Optional(
    Type.Union(
      [
        Type.Object(
          { include_usage: boolean('End with a chunk that holds the usage.') },
          { additionalProperties: true },
        ),
        Type.Null(),
      ],
      { description: 'Only with `stream`.' },
    ),
  ),
  priority: integer('Smaller runs earlier.', { minimum: -INT32_MAX, maximum: INT32_MAX }),
  request_id: string('Id of the answer; drawn when left out.', { minLength: 1, maxLength: 128 }),
  cache_salt: string('Prefix-cache blocks are shared only under the same salt.', {
    minLength: 1,
    maxLength: 1024,
  }),
  user: string('Ignored.'),
  metadata: object('Ignored.'),
  response_format: Type.Optional(
    Type.Union(
      [
        Type.Object(
          { type: Type.Enum(['text', 'json_object', 'json_schema']) },
          { additionalProperties: true, ...told(formatHasSchema) },
        ),
        Type.Null(),
      ],
      { description: 'Constrains the answer: `json_object`, or `json_schema` with a schema.' },
    ),
  ),
  structured_outputs: object(
    'Constrains the answer: one of `json` (a schema), `regex`, `choice`, `grammar` (GBNF or Lark).',
    told(oneConstraint),
  ),
};

export const templateFields = {
  add_generation_prompt: boolean("Open the assistant's turn (default true)."),
  continue_final_message: boolean('Leave the last message open and write on.'),
  chat_template_kwargs: object('Variables for the chat template.'),
};

export const toolFields = {
  tools: list<Record<string, unknown>>(
    Type.Object({}, told(chatFunction)),
    'Functions that the model may call.',
  ),
  tool_choice: Type.Optional(
    Type.Union([Type.Enum(['none', 'auto', 'required']), Type.Object({}, told(namesFunction)), Type.Null()], {
      description: '`none`, `auto`, `required`, or one function by name.',
    }),
  ),
};

const part = Type.Object(
  { type: Type.String(), text: Type.Optional(Type.String()) },
  { additionalProperties: true, ...told(textPart) },
);

export const messageSchema = Type.Object(
  {
    role: Type.Enum(['system', 'developer', 'user', 'assistant', 'tool']),
    content: Type.Optional(Type.Union([Type.String(), Type.Array(part), Type.Null()])),
    name: string('Name of the participant.'),
    tool_calls: list<Record<string, unknown>>(
      Type.Object({}, { additionalProperties: true, ...told(functionCall) }),
      'Calls made earlier.',
    ),
    tool_call_id: string('The call that a tool message answers.'),
  },
  { additionalProperties: true, ...told(hasContent) },
);

export const modelField = Type.Optional(
  Type.Unsafe<string | null>({
    type: ['string', 'null'],
    description: 'One of `/v1/models`; left out: the base.',
  }),
);

export const errorSchema = Type.Object({
  error: Type.Object({
    message: Type.String(),
    type: Type.String(),
    param: Type.Union([Type.String(), Type.Null()]),
    code: Type.Union([Type.String(), Type.Null()]),
  }),
});

export const usageSchema = Type.Object({
  prompt_tokens: Type.Integer(),
  completion_tokens: Type.Integer(),
  total_tokens: Type.Integer(),
  prompt_tokens_details: Type.Object({ cached_tokens: Type.Integer() }),
});

const serverSentEvent = Type.Object(
  {
    event: Type.Optional(Type.String({ description: "The event's name, on the routes that name them." })),
    data: Type.String({ description: 'JSON, or `[DONE]`.' }),
  },
  { description: 'One of the server-sent events.' },
);

/** What a route answers: the object, or with `stream: true` the events that add up to it. */
export const streamable = (schema: TSchema) => ({
  description: 'The whole answer, or with `stream` its events.',
  content: {
    'application/json': { schema },
    'text/event-stream': { schema: serverSentEvent },
  },
});

/** Every error status that a `/v1` route may answer with. */
export const errorResponses = {
  400: errorSchema,
  401: errorSchema,
  404: errorSchema,
  413: errorSchema,
  415: errorSchema,
  429: errorSchema,
  500: errorSchema,
  503: errorSchema,
};
