import { answer } from '../answer.js';
import { startCompletion } from '../completions.js';
import { errorResponses, streamable } from '../schemas/common.js';
import { completionBody, completionResponse } from '../schemas/completions.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

export function completionRoutes(api: Api, service: Service): void {
  api.post(
    '/v1/completions',
    {
      schema: {
        summary: 'Continue a text',
        tags: ['generation'],
        body: completionBody,
        response: { 200: streamable(completionResponse), ...errorResponses },
      },
    },
    (request, reply) =>
      answer(service, request, reply, completionBody, (call) => startCompletion(service, request.body, call)),
  );
}
