import { FiligreeError } from '../../errors.js';
import { tokenString } from '../logprobs.js';
import { checkTokenIds, encodeChat, encodeText, renderChat } from '../prompt.js';
import { errorResponses } from '../schemas/common.js';
import {
  detokenizeBody,
  promptResponse,
  templateBody,
  tokenizeBody,
  tokenizeResponse,
} from '../schemas/tokens.js';
import { resolveName, type Service } from '../service.js';
import type { Api } from './api.js';

export function tokenRoutes(api: Api, service: Service): void {
  const { tokenizer } = service.model;
  api.post(
    '/tokenize',
    {
      schema: {
        summary: 'Text or a conversation to token ids',
        tags: ['tokens'],
        body: tokenizeBody,
        response: { 200: tokenizeResponse, ...errorResponses },
      },
    },
    async ({ body }) => {
      resolveName(service, body.model);
      const { prompt, messages } = body;
      let tokens: number[];
      if (messages) tokens = (await encodeChat(service, { ...body, messages })).ids;
      else if (typeof prompt !== 'string')
        throw new FiligreeError('invalid_value', "'prompt' or 'messages' is missing", { param: 'prompt' });
      else if (prompt === '' && body.add_special_tokens === false) tokens = [];
      else tokens = await encodeText(service, prompt, body.add_special_tokens ?? true, 'prompt');
      return {
        count: tokens.length,
        max_model_len: service.engine.info.maxModelLen,
        tokens,
        token_strs: body.return_token_strs ? tokens.map((id) => tokenString(tokenizer, id)) : null,
      };
    },
  );
  api.post(
    '/detokenize',
    {
      schema: {
        summary: 'Token ids to text',
        tags: ['tokens'],
        body: detokenizeBody,
        response: { 200: promptResponse, ...errorResponses },
      },
    },
    async ({ body }) => {
      resolveName(service, body.model);
      checkTokenIds(service, body.tokens, 'tokens');
      return { prompt: tokenizer.decode(body.tokens, { skipSpecial: body.skip_special_tokens ?? false }) };
    },
  );
  api.post(
    '/apply-template',
    {
      schema: {
        summary: 'A conversation as the text that the model reads',
        tags: ['tokens'],
        body: templateBody,
        response: { 200: promptResponse, ...errorResponses },
      },
    },
    async ({ body }) => {
      resolveName(service, body.model);
      return { prompt: renderChat(service, body) };
    },
  );
}
