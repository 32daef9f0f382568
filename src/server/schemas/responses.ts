import Type, { type Static } from 'typebox';
import { boolean, integer, list, modelField, object, samplingFields, string, tokenLimit } from './common.js';
import {
  inputItem,
  namesResponseFunction,
  notOnlyReasoning,
  OF_RESPONSE,
  responseFormatHasSchema,
  responseFunction,
} from './restrictions.js';
import { told } from './told.js';

const anything = Type.Object({}, { additionalProperties: true });

function pick<T extends object, K extends keyof T>(fields: T, names: readonly K[]): Pick<T, K> {
  return Object.fromEntries(names.map((name) => [name, fields[name]])) as Pick<T, K>;
}

/** Parameters that mean here what they mean to `/v1/chat/completions`, and are handed on as they are. */
export const sharedFields = {
  ...pick(samplingFields, [
    'temperature',
    'top_p',
    'top_k',
    'min_p',
    'repetition_penalty',
    'frequency_penalty',
    'presence_penalty',
    'logit_bias',
    'seed',
    'min_tokens',
    'stop',
    'stop_token_ids',
    'ignore_eos',
    'skip_special_tokens',
    'allowed_token_ids',
    'bad_words',
    'priority',
    'cache_salt',
    'structured_outputs',
  ]),
  chat_template_kwargs: object('Variables for the chat template.'),
};

export const responseBody = Type.Object(
  {
    model: modelField,
    input: Type.Union(
      [
        Type.String(),
        Type.Array(Type.Object({}, { additionalProperties: true, ...told(inputItem) }), {
          minItems: 1,
          maxItems: 4096,
          ...told(notOnlyReasoning),
        }),
      ],
      {
        description: 'A text, or items: messages, function calls and their outputs.',
      },
    ),
    instructions: string('System message of this response alone.'),
    previous_response_id: string('Go on from a stored response.', { minLength: 1, maxLength: 256 }),
    store: boolean('Keep the response for `GET` and `previous_response_id` (default true).'),
    background: boolean('Answer at once and go on; read the response by `GET`.'),
    stream: boolean('Send events while the answer is written.'),
    max_output_tokens: tokenLimit('Most tokens of the answer.', 1),
    text: Type.Optional(
      Type.Union(
        [
          Type.Object(
            {
              format: Type.Optional(
                Type.Union([
                  Type.Object(
                    { type: Type.Enum(['text', 'json_object', 'json_schema']) },
                    { additionalProperties: true, ...told(responseFormatHasSchema) },
                  ),
                  Type.Null(),
                ]),
              ),
            },
            { additionalProperties: true },
          ),
          Type.Null(),
        ],
        { description: '`format`: text, json_object or json_schema.' },
      ),
    ),
    tools: list<Record<string, unknown>>(
      Type.Object({}, { additionalProperties: true, ...told(responseFunction) }),
      'Functions that the model may call.',
      { maxItems: 512 },
    ),
    tool_choice: Type.Optional(
      Type.Union(
        [
          Type.Enum(['none', 'auto', 'required']),
          Type.Object({}, { additionalProperties: true, ...told(namesResponseFunction) }),
          Type.Null(),
        ],
        {
          description: 'Whether and which function is called.',
        },
      ),
    ),
    parallel_tool_calls: boolean('Several calls in one answer (default true).'),
    include: list<string>(Type.String(), '`message.output_text.logprobs` adds log-probabilities.'),
    top_logprobs: integer('With those: also of the k most likely tokens.', { minimum: 0, maximum: 20 }),
    truncation: Type.Optional(
      Type.Unsafe<'auto' | 'disabled' | null>({
        enum: ['auto', 'disabled', null],
        description: '`auto` drops the oldest items of a conversation that does not fit.',
      }),
    ),
    ...sharedFields,
    max_tool_calls: integer('Ignored: no tool runs on this server.'),
    reasoning: object('Ignored.'),
    service_tier: string('Ignored.'),
    safety_identifier: string('Ignored.'),
    prompt_cache_key: string('Ignored: the prefix cache needs no key.'),
    metadata: object('Returned with the response.'),
    user: string('Ignored.'),
  },
  { additionalProperties: true, title: 'ResponseRequest', ...told(...OF_RESPONSE) },
);
export type ResponseBody = Static<typeof responseBody>;

export const responseSchema = Type.Object(
  {
    id: Type.String(),
    object: Type.Literal('response'),
    created_at: Type.Integer(),
    status: Type.Enum(['in_progress', 'completed', 'incomplete', 'failed', 'cancelled']),
    error: Type.Union([Type.Object({ code: Type.String(), message: Type.String() }), Type.Null()]),
    incomplete_details: Type.Union([Type.Object({ reason: Type.String() }), Type.Null()]),
    model: Type.String(),
    output: Type.Array(anything),
    usage: Type.Union([
      Type.Object({
        input_tokens: Type.Integer(),
        input_tokens_details: Type.Object({ cached_tokens: Type.Integer() }),
        output_tokens: Type.Integer(),
        output_tokens_details: Type.Object({ reasoning_tokens: Type.Integer() }),
        total_tokens: Type.Integer(),
      }),
      Type.Null(),
    ]),
  },
  { additionalProperties: true, title: 'Response' },
);

export const deletedSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('response'),
  deleted: Type.Literal(true),
});

export const inputItemsSchema = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(anything),
  first_id: Type.Union([Type.String(), Type.Null()]),
  last_id: Type.Union([Type.String(), Type.Null()]),
  has_more: Type.Boolean(),
});
