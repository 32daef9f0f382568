import Type, { type Static } from 'typebox';
import {
  boolean,
  integer,
  list,
  messageSchema,
  modelField,
  samplingFields,
  templateFields,
  usageSchema,
} from './common.js';

export const chatBody = Type.Object(
  {
    model: modelField,
    messages: Type.Array(messageSchema, { minItems: 1, description: 'The conversation so far.' }),
    ...samplingFields,
    ...templateFields,
    max_completion_tokens: integer('The newer name of `max_tokens`.', { minimum: 1, maximum: 2 ** 31 - 1 }),
    logprobs: boolean('Log-probabilities of the answer.'),
    top_logprobs: integer('With `logprobs`: also of the k most likely tokens.', { minimum: 0, maximum: 20 }),
    echo: boolean('With `continue_final_message`: begin with the text that is continued.'),
    tools: list<Record<string, unknown>>(Type.Object({}), 'Functions that the model may call.'),
    tool_choice: Type.Optional(
      Type.Union([Type.Enum(['none', 'auto', 'required']), Type.Object({}), Type.Null()], {
        description: '`none`, `auto`, `required`, or one function by name.',
      }),
    ),
    parallel_tool_calls: boolean('Several calls in one answer (default true).'),
  },
  { additionalProperties: true, title: 'ChatCompletionRequest' },
);
export type ChatBody = Static<typeof chatBody>;
export type ChatMessage = Static<typeof messageSchema>;

const logprobEntry = {
  token: Type.String(),
  logprob: Type.Number(),
  bytes: Type.Union([Type.Array(Type.Integer()), Type.Null()]),
};

const chatLogprobs = Type.Union([
  Type.Object({
    content: Type.Array(
      Type.Object({ ...logprobEntry, top_logprobs: Type.Array(Type.Object(logprobEntry)) }),
    ),
  }),
  Type.Null(),
]);

export const chatResponse = Type.Object(
  {
    id: Type.String(),
    object: Type.Literal('chat.completion'),
    created: Type.Integer(),
    model: Type.String(),
    choices: Type.Array(
      Type.Object({
        index: Type.Integer(),
        message: Type.Object({
          role: Type.Literal('assistant'),
          content: Type.Union([Type.String(), Type.Null()]),
          refusal: Type.Null(),
          tool_calls: Type.Optional(
            Type.Array(Type.Unsafe<object>({ type: 'object', additionalProperties: true })),
          ),
        }),
        logprobs: chatLogprobs,
        finish_reason: Type.String(),
        stop_reason: Type.Union([Type.String(), Type.Integer(), Type.Null()]),
      }),
    ),
    usage: usageSchema,
  },
  { additionalProperties: true, title: 'ChatCompletion' },
);
