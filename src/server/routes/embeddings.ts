import { answer } from '../answer.js';
import { startEmbedding } from '../embeddings.js';
import { errorResponses } from '../schemas/common.js';
import { embeddingBody, embeddingResponse } from '../schemas/embeddings.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

export function embeddingRoutes(api: Api, service: Service): void {
  api.post(
    '/v1/embeddings',
    {
      schema: {
        summary: 'Texts as vectors',
        tags: ['generation'],
        body: embeddingBody,
        response: { 200: embeddingResponse, ...errorResponses },
      },
    },
    (request, reply) =>
      answer(service, request, reply, embeddingBody, (call) => startEmbedding(service, request.body, call)),
  );
}
