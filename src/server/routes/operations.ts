import Type from 'typebox';
import { FiligreeError } from '../../errors.js';
import { Metrics } from '../metrics.js';
import { errorSchema } from '../schemas/common.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

const status = Type.Object({ status: Type.String() });

/** Probes, metrics and the document: what orchestrators, routers and scrapers read. Open unless all is protected. */
export function operationRoutes(api: Api, service: Service): void {
  const { engine, lifecycle, version } = service;
  const metrics = new Metrics(service);
  const tags = ['operation'];

  const live = async () => {
    if (!engine.healthy())
      throw new FiligreeError('unhealthy', 'The engine does not make progress. Restart the server.');
    return { status: 'ok' };
  };
  const probe = (summary: string) => ({
    schema: { summary, tags, response: { 200: status, 503: errorSchema } },
  });
  api.get('/health', probe('Whether the server works; a restart is due when not'), live);
  api.get('/ping', probe('As /health'), live);
  api.post('/ping', probe('As /health'), live);
  api.get('/ready', probe('Whether the server takes requests'), async () => {
    if (lifecycle.draining) throw new FiligreeError('server_draining', 'The server is shutting down.');
    await live();
    return { status: 'ready' };
  });
  api.get(
    '/version',
    { schema: { summary: 'Release', tags, response: { 200: Type.Object({ version: Type.String() }) } } },
    async () => ({ version }),
  );
  api.get(
    '/load',
    {
      schema: {
        summary: 'Answers under way',
        tags,
        response: { 200: Type.Object({ server_load: Type.Integer() }) },
      },
    },
    async () => ({ server_load: lifecycle.active }),
  );
  api.get(
    '/is_sleeping',
    {
      schema: {
        summary: 'Always false',
        tags,
        response: { 200: Type.Object({ is_sleeping: Type.Boolean() }) },
      },
    },
    async () => ({ is_sleeping: false }),
  );
  api.get(
    '/metrics',
    {
      schema: {
        summary: 'Prometheus metrics',
        tags,
        response: {
          200: {
            description: 'Text exposition format.',
            content: { 'text/plain': { schema: Type.String() } },
          },
        },
      },
    },
    async (_request, reply) =>
      reply
        .header('content-type', metrics.registry.contentType)
        .serializer(String)
        .send(await metrics.text()),
  );
  api.get('/openapi.json', { schema: { hide: true } }, async () => api.swagger());
}
