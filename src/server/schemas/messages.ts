import Type, { type Static } from 'typebox';
import { boolean, integer, list, object, string } from './common.js';
import { sharedFields } from './responses.js';
import {
  belowContext,
  blocksOfRole,
  choosesTool,
  messageFunction,
  namesTool,
  systemText,
} from './restrictions.js';
import { told } from './told.js';

const block = Type.Object({ type: Type.String() }, { additionalProperties: true });
const content = Type.Union([Type.String(), Type.Array(block)]);

const conversation = {
  model: Type.Optional(
    Type.Unsafe<string | null>({ type: ['string', 'null'], description: 'One of `/v1/models`.' }),
  ),
  messages: Type.Array(
    Type.Object(
      { role: Type.Enum(['user', 'assistant', 'system']), content },
      { additionalProperties: true, ...told(blocksOfRole) },
    ),
    { minItems: 1, description: 'The conversation so far; a last one of the assistant is continued.' },
  ),
  system: Type.Optional(Type.Union([Type.String(), Type.Array(block), Type.Null()], told(systemText))),
  tools: list<Record<string, unknown>>(
    Type.Object({}, { additionalProperties: true, ...told(messageFunction) }),
    'Functions that the model may use.',
    { maxItems: 512 },
  ),
  tool_choice: Type.Optional(
    Type.Union([
      Type.Object(
        { type: Type.Enum(['auto', 'any', 'tool', 'none']) },
        { additionalProperties: true, ...told(namesTool) },
      ),
      Type.Null(),
    ]),
  ),
};

const { stop: _stop, ...shared } = sharedFields;

export const messageBody = Type.Object(
  {
    ...shared,
    ...conversation,
    max_tokens: Type.Integer({
      minimum: 1,
      maximum: 2 ** 31 - 1,
      description: 'Most tokens of the answer.',
      ...told(belowContext),
    }),
    stop_sequences: list<string>(Type.String({ minLength: 1 }), 'Strings that end the answer.', {
      maxItems: 64,
    }),
    stream: boolean("Send the answer as it is written, as Anthropic's events."),
    metadata: object('Ignored.'),
    thinking: object('Ignored: the model does not think aloud.'),
    service_tier: string('Ignored.'),
    container: string('Ignored.'),
    context_management: object('Ignored.'),
    max_thinking_tokens: integer('Ignored.'),
  },
  { additionalProperties: true, title: 'MessageRequest', ...told(choosesTool) },
);
export type MessageBody = Static<typeof messageBody>;

export const countBody = Type.Object(conversation, {
  additionalProperties: true,
  title: 'CountTokensRequest',
  ...told(choosesTool),
});
export type CountBody = Static<typeof countBody>;

export const messageResponse = Type.Object(
  {
    id: Type.String(),
    type: Type.Literal('message'),
    role: Type.Literal('assistant'),
    model: Type.String(),
    content: Type.Array(block),
    stop_reason: Type.Union([Type.String(), Type.Null()]),
    stop_sequence: Type.Union([Type.String(), Type.Null()]),
    usage: Type.Object(
      { input_tokens: Type.Integer(), output_tokens: Type.Integer() },
      { additionalProperties: true },
    ),
  },
  { additionalProperties: true, title: 'Message' },
);

export const countResponse = Type.Object({ input_tokens: Type.Integer() });

const anthropicError = Type.Object({
  type: Type.Literal('error'),
  error: Type.Object({ type: Type.String(), message: Type.String() }),
  request_id: Type.Union([Type.String(), Type.Null()]),
});
export const anthropicErrors = Object.fromEntries(
  [400, 401, 404, 413, 415, 429, 500, 503].map((status) => [status, anthropicError]),
);
