import type { FastifyRequest } from 'fastify';
import Type from 'typebox';
import { FiligreeError } from '../../errors.js';
import { answer } from '../answer.js';
import { startResponse } from '../responses/start.js';
import { ResponseStore } from '../responses/store.js';
import { errorResponses, streamable } from '../schemas/common.js';
import {
  deletedSchema,
  inputItemsSchema,
  type ResponseBody,
  responseBody,
  responseSchema,
} from '../schemas/responses.js';
import { told } from '../schemas/told.js';
import type { Service } from '../service.js';
import { RESPONSE_EVENTS } from '../sse.js';
import type { Api } from './api.js';

const tags = ['responses'];
const params = Type.Object({ id: Type.String({ maxLength: 256 }) });

const storedQuery = Type.Object(
  {
    stream: Type.Optional(
      Type.Enum(['true', 'false'], {
        description: 'Refused when `true`: a stored response is not streamed again.',
        ...told({ not: { const: 'true' } }),
      }),
    ),
  },
  { additionalProperties: true },
);

const DEFAULT_ITEMS = 20;
const itemsQuery = Type.Object(
  {
    limit: Type.Optional(
      Type.String({
        pattern: '^([1-9][0-9]?|100)$',
        description: `Items of a page, 1 to 100 (default ${DEFAULT_ITEMS}).`,
      }),
    ),
    order: Type.Optional(
      Type.Enum(['asc', 'desc'], { description: 'Oldest or newest first (default `desc`).' }),
    ),
    after: Type.Optional(Type.String({ description: 'The id of the item before the page.' })),
  },
  { additionalProperties: true },
);

export function responseRoutes(api: Api, service: Service, store = new ResponseStore()): void {
  api.post(
    '/v1/responses',
    {
      schema: {
        summary: 'Answer a conversation, kept for the next turn',
        tags,
        body: responseBody,
        response: { 200: streamable(responseSchema), ...errorResponses },
      },
    },
    async (request, reply) => {
      const { body } = request;
      if (!body.background)
        return answer(
          service,
          request,
          reply,
          responseBody,
          (call) => startResponse(service, store, body, call),
          RESPONSE_EVENTS,
        );
      if (body.stream)
        throw new FiligreeError('unsupported_value', "'background' cannot be streamed: poll it by GET", {
          param: 'background',
        });
      return reply.send((await inBackground(service, store, request)) as never);
    },
  );

  api.get(
    '/v1/responses/:id',
    {
      schema: {
        summary: 'A stored response',
        tags,
        params,
        querystring: storedQuery,
        response: { 200: responseSchema, ...errorResponses },
      },
    },
    async ({ params: { id }, query }) => {
      if (query.stream === 'true')
        throw new FiligreeError('unsupported_value', "'stream': a stored response is not streamed again", {
          param: 'stream',
        });
      return store.get(id).response as never;
    },
  );

  api.get(
    '/v1/responses/:id/input_items',
    {
      schema: {
        summary: 'What a stored response answered',
        tags,
        params,
        querystring: itemsQuery,
        response: { 200: inputItemsSchema, ...errorResponses },
      },
    },
    async ({ params: { id }, query }) => {
      const items = [...store.get(id).input] as { id?: string }[];
      if (query.order !== 'asc') items.reverse();
      const before = query.after === undefined ? -1 : items.findIndex((item) => item.id === query.after);
      if (query.after !== undefined && before < 0)
        throw new FiligreeError('not_found', "'after' is the id of no item of this response", {
          param: 'after',
        });
      const end = before + 1 + Number(query.limit ?? DEFAULT_ITEMS);
      const data = items.slice(before + 1, end);
      return {
        object: 'list' as const,
        data,
        first_id: data[0]?.id ?? null,
        last_id: data.at(-1)?.id ?? null,
        has_more: end < items.length,
      };
    },
  );

  api.delete(
    '/v1/responses/:id',
    {
      schema: {
        summary: 'Forget a stored response',
        tags,
        params,
        response: { 200: deletedSchema, ...errorResponses },
      },
    },
    async ({ params: { id } }) => {
      store.get(id).cancel?.();
      store.drop(id);
      return { id, object: 'response' as const, deleted: true as const };
    },
  );

  api.post(
    '/v1/responses/:id/cancel',
    {
      schema: {
        summary: 'Stop a response that runs in the background',
        tags,
        params,
        response: { 200: responseSchema, ...errorResponses },
      },
    },
    async ({ params: { id } }) => {
      const stored = store.get(id);
      if (stored.response.background !== true)
        throw new FiligreeError(
          'invalid_value',
          'Only a response made with background: true can be cancelled.',
          {
            param: 'response_id',
          },
        );
      stored.cancel?.();
      if (stored.response.status === 'in_progress') stored.response.status = 'cancelled';
      return stored.response as never;
    },
  );
}

/** Starts a response and lets it run: it counts as under way until its last token, so a drain waits for it. */
async function inBackground(
  service: Service,
  store: ResponseStore,
  request: FastifyRequest<{ Body: ResponseBody }>,
): Promise<object> {
  const leave = service.lifecycle.enter();
  try {
    const call = { requestId: request.id, arrival: request.arrival };
    const exchange = await startResponse(service, store, request.body, call);
    const first = structuredClone(exchange.background());
    void exchange
      .response()
      .catch((error: unknown) => request.log.error({ err: error }, 'a background response failed'))
      .finally(leave);
    return first;
  } catch (error) {
    leave();
    throw error;
  }
}
