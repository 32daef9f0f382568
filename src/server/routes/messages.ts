import { answer } from '../answer.js';
import { countTokens, startMessage } from '../messages/start.js';
import { streamable } from '../schemas/common.js';
import {
  anthropicErrors,
  countBody,
  countResponse,
  messageBody,
  messageResponse,
} from '../schemas/messages.js';
import type { Service } from '../service.js';
import { MESSAGE_EVENTS } from '../sse.js';
import type { Api } from './api.js';

/** Anthropic's API. Its errors get their shape where all errors do (see http-errors.ts). */
export function messageRoutes(api: Api, service: Service): void {
  const tags = ['messages'];
  api.post(
    '/v1/messages',
    {
      schema: {
        summary: "Answer a conversation in Anthropic's shape",
        tags,
        body: messageBody,
        response: { 200: streamable(messageResponse), ...anthropicErrors },
      },
    },
    (request, reply) =>
      answer(
        service,
        request,
        reply,
        messageBody,
        (call) => startMessage(service, request.body, call),
        MESSAGE_EVENTS,
      ),
  );
  api.post(
    '/v1/messages/count_tokens',
    {
      schema: {
        summary: 'Tokens that a conversation takes',
        tags,
        body: countBody,
        response: { 200: countResponse, ...anthropicErrors },
      },
    },
    ({ body }) => countTokens(service, body),
  );
}
