import Type from 'typebox';
import { BLOCK_SIZE } from '../../engine/model-runner.js';
import type { KvEventSource } from '../kv-events/publisher.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

const source = Type.Object({
  endpoint: Type.String(),
  replay_endpoint: Type.Union([Type.String(), Type.Null()]),
  topic: Type.String(),
  hwm: Type.Integer(),
  buffer_steps: Type.Integer(),
  publisher: Type.Literal('zmq'),
  enable_kv_cache_events: Type.Literal(true),
  encoding: Type.Literal('msgpack'),
  schema_version: Type.Union([Type.Literal(0), Type.Literal(1)]),
});

const serverInfo = Type.Object({
  model_id: Type.String(),
  model_path: Type.String(),
  served_model_name: Type.String(),
  max_model_len: Type.Integer(),
  kv_block_size: Type.Integer(),
  num_gpu_blocks: Type.Integer(),
  max_num_seqs: Type.Integer(),
  version: Type.String(),
});

/** What routers ask a server before they send it requests: what it serves, and where it publishes its cache. */
export function discoveryRoutes(api: Api, { kvEvents, model, engine, version }: Service): void {
  const tags = ['operation'];
  for (const url of ['/get_server_info', '/server_info'])
    api.get(
      url,
      { schema: { summary: 'Model and sizes, for routers', tags, response: { 200: serverInfo } } },
      async () => ({
        model_id: model.names[0],
        model_path: model.names[0],
        served_model_name: model.names[0],
        max_model_len: engine.info.maxModelLen,
        kv_block_size: BLOCK_SIZE,
        num_gpu_blocks: engine.info.numBlocks,
        max_num_seqs: engine.maxNumSeqs,
        version,
      }),
    );
  api.get(
    '/kv_event_sources',
    {
      schema: {
        summary:
          'Sockets that publish what the prefix cache holds, by data-parallel rank; none without --kv-events-config',
        tags,
        response: { 200: Type.Record(Type.String(), source) },
      },
    },
    async (request): Promise<Record<string, KvEventSource>> =>
      kvEvents === undefined ? {} : { 0: kvEvents.source(request.hostname) },
  );
}
