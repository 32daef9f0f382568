import Type, { type Static } from 'typebox';
import {
  boolean,
  integer,
  messageSchema,
  modelField,
  samplingFields,
  templateFields,
  tokenLimit,
  toolFields,
  usageSchema,
} from './common.js';
import { OF_CHAT } from './restrictions.js';
import { told } from './told.js';

export const chatBody = Type.Object(
  {
    model: modelField,
    messages: Type.Array(messageSchema, { minItems: 1, description: 'The conversation so far.' }),
    ...samplingFields,
    ...templateFields,
    max_tokens: integer('Most tokens of an answer.', { minimum: 1, maximum: 2 ** 31 - 1 }),
    max_completion_tokens: tokenLimit('The newer name of `max_tokens`.', 1),
    logprobs: boolean('Log-probabilities of the answer.'),
    top_logprobs: integer('With `logprobs`: also of the k most likely tokens.', { minimum: 0, maximum: 20 }),
    echo: boolean('With `continue_final_message`: begin with the text that is continued.'),
    ...toolFields,
    parallel_tool_calls: boolean('Several calls in one answer (default true).'),
  },
  { additionalProperties: true, title: 'ChatCompletionRequest', ...told(...OF_CHAT) },
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
