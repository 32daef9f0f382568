import { answer } from '../answer.js';
import { startChat } from '../chat.js';
import { chatBody, chatResponse } from '../schemas/chat.js';
import { errorResponses, streamable } from '../schemas/common.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

export function chatRoutes(api: Api, service: Service): void {
  api.post(
    '/v1/chat/completions',
    {
      schema: {
        summary: 'Answer a conversation',
        tags: ['generation'],
        body: chatBody,
        response: { 200: streamable(chatResponse), ...errorResponses },
      },
    },
    (request, reply) =>
      answer(service, request, reply, chatBody, (call) => startChat(service, request.body, call)),
  );
}
