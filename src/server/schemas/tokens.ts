import Type, { type Static } from 'typebox';
import { boolean, messageSchema, modelField, string, templateFields, tokenId, toolFields } from './common.js';
import { OF_TEMPLATE, OF_TOKENIZE } from './restrictions.js';
import { told } from './told.js';

export const tokenizeBody = Type.Object(
  {
    model: modelField,
    prompt: string('Text to tokenize; or give `messages`.'),
    messages: Type.Optional(Type.Array(messageSchema, { minItems: 1 })),
    ...templateFields,
    ...toolFields,
    add_special_tokens: boolean("The tokenizer's own BOS (default true for `prompt`, false for `messages`)."),
    return_token_strs: boolean('Add the text of each token.'),
  },
  { additionalProperties: true, title: 'TokenizeRequest', ...told(...OF_TOKENIZE) },
);
export type TokenizeBody = Static<typeof tokenizeBody>;

export const tokenizeResponse = Type.Object({
  count: Type.Integer(),
  max_model_len: Type.Integer(),
  tokens: Type.Array(Type.Integer()),
  token_strs: Type.Union([Type.Array(Type.String()), Type.Null()]),
});

export const detokenizeBody = Type.Object(
  {
    model: modelField,
    tokens: Type.Array(tokenId, { maxItems: 4_194_304 }),
    skip_special_tokens: boolean('Leave control tokens out (default false).'),
  },
  { additionalProperties: true, title: 'DetokenizeRequest' },
);
export type DetokenizeBody = Static<typeof detokenizeBody>;

export const templateBody = Type.Object(
  {
    model: modelField,
    messages: Type.Array(messageSchema, { minItems: 1 }),
    ...templateFields,
    ...toolFields,
  },
  { additionalProperties: true, title: 'ApplyTemplateRequest', ...told(...OF_TEMPLATE) },
);
export type TemplateBody = Static<typeof templateBody>;

export const promptResponse = Type.Object({ prompt: Type.String() });
