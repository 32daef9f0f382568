import Type, { type Static } from 'typebox';
import { boolean, integer, modelField, samplingFields, string, tokenId, usageSchema } from './common.js';
import { OF_COMPLETION } from './restrictions.js';
import { told } from './told.js';

export const completionBody = Type.Object(
  {
    model: modelField,
    prompt: Type.Union(
      [
        Type.String(),
        Type.Array(tokenId, { minItems: 1 }),
        Type.Array(Type.String(), { minItems: 1 }),
        Type.Array(Type.Array(tokenId, { minItems: 1 }), { minItems: 1 }),
      ],
      { description: 'Text, token ids, or a batch of either.' },
    ),
    ...samplingFields,
    logprobs: integer('Log-probabilities of the answer, with the k most likely tokens.', {
      minimum: 0,
      maximum: 20,
    }),
    echo: boolean('Begin the text with the prompt; with `logprobs`, its log-probabilities too.'),
    best_of: integer('Write so many, return the `n` most likely per token.', { minimum: 1, maximum: 128 }),
    suffix: string('Text after the gap: the answer fills it. 400 where the model has no infill tokens.'),
    add_special_tokens: boolean("The tokenizer's own BOS before a text prompt (default true)."),
  },
  { additionalProperties: true, title: 'CompletionRequest', ...told(...OF_COMPLETION) },
);
export type CompletionBody = Static<typeof completionBody>;

const numberOrNull = Type.Union([Type.Number(), Type.Null()]);

export const completionResponse = Type.Object(
  {
    id: Type.String(),
    object: Type.Literal('text_completion'),
    created: Type.Integer(),
    model: Type.String(),
    choices: Type.Array(
      Type.Object({
        index: Type.Integer(),
        text: Type.String(),
        logprobs: Type.Union([
          Type.Object({
            tokens: Type.Array(Type.String()),
            token_logprobs: Type.Array(numberOrNull),
            top_logprobs: Type.Array(Type.Union([Type.Record(Type.String(), Type.Number()), Type.Null()])),
            text_offset: Type.Array(Type.Integer()),
          }),
          Type.Null(),
        ]),
        finish_reason: Type.String(),
        stop_reason: Type.Union([Type.String(), Type.Integer(), Type.Null()]),
      }),
    ),
    usage: usageSchema,
  },
  { additionalProperties: true, title: 'Completion' },
);
