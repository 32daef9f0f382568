import Type, { type Static } from 'typebox';
import { boolean, integer, modelField, string, tokenId } from './common.js';
import { notZero, upToHiddenSize } from './restrictions.js';
import { told } from './told.js';

export const embeddingBody = Type.Object(
  {
    model: modelField,
    input: Type.Union(
      [
        Type.String(),
        Type.Array(Type.String(), { minItems: 1, maxItems: 2048 }),
        Type.Array(tokenId, { minItems: 1 }),
        Type.Array(Type.Array(tokenId, { minItems: 1 }), { minItems: 1, maxItems: 2048 }),
      ],
      { description: 'Text, token ids, or a batch of either.' },
    ),
    dimensions: integer('Keep the first so many numbers, at most all, made a unit vector again.', {
      minimum: 1,
      ...told(upToHiddenSize),
    }),
    encoding_format: Type.Optional(
      Type.Unsafe<'float' | 'base64' | null>({
        enum: ['float', 'base64', null],
        description: 'Numbers, or base64 of little-endian 32-bit floats.',
      }),
    ),
    pooling: Type.Optional(
      Type.Unsafe<'mean' | 'last' | null>({
        enum: ['mean', 'last', null],
        description: "The mean of all positions' final hidden states (default), or that of the last token.",
      }),
    ),
    normalize: boolean('Make it a unit vector (default true).'),
    add_special_tokens: boolean("The tokenizer's own BOS before a text (default true)."),
    truncate_prompt_tokens: integer('Keep only the last k tokens; -1: as many as the model takes.', {
      minimum: -1,
      maximum: 2 ** 31 - 1,
      ...told(notZero),
    }),
    priority: integer('Smaller runs earlier.', { minimum: -(2 ** 31) + 1, maximum: 2 ** 31 - 1 }),
    user: string('Ignored.'),
  },
  { additionalProperties: true, title: 'EmbeddingRequest' },
);
export type EmbeddingBody = Static<typeof embeddingBody>;

export const embeddingResponse = Type.Object(
  {
    object: Type.Literal('list'),
    data: Type.Array(
      Type.Object({
        object: Type.Literal('embedding'),
        index: Type.Integer(),
        embedding: Type.Union([Type.Array(Type.Number()), Type.String()]),
      }),
    ),
    model: Type.String(),
    usage: Type.Object({ prompt_tokens: Type.Integer(), total_tokens: Type.Integer() }),
  },
  { additionalProperties: true, title: 'EmbeddingResponse' },
);
