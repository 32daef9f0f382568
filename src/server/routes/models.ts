import Type from 'typebox';
import { errorResponses } from '../schemas/common.js';
import { modelNames, resolveName, type Service, serviceFor } from '../service.js';
import type { Api } from './api.js';

const modelSchema = Type.Object(
  {
    id: Type.String(),
    object: Type.Literal('model'),
    created: Type.Integer(),
    owned_by: Type.String(),
    root: Type.String(),
    parent: Type.Union([Type.String(), Type.Null()]),
    max_model_len: Type.Integer(),
    architecture: Type.String(),
    format: Type.String(),
    sparsity: Type.Number(),
    weight_bytes: Type.Integer(),
    dense_f32_bytes: Type.Integer(),
  },
  { additionalProperties: true, title: 'Model' },
);

export function modelRoutes(api: Api, service: Service): void {
  const describe = (id: string) => {
    const { engine, model, adapter, adapters } = serviceFor(service, id);
    const lora = adapter === undefined ? undefined : adapters?.get(adapter);
    const { info } = engine;
    const { names, architecture, created } = model;
    const largest = Object.entries(info.formats).sort((x, y) => y[1] - x[1])[0];
    return {
      id,
      object: 'model' as const,
      created,
      owned_by: 'filigree',
      root: lora?.root ?? names[0],
      /** Of an adapter: the model that it changes. */
      parent: lora === undefined ? null : names[0],
      max_model_len: info.maxModelLen,
      architecture,
      /** The format of most bytes; `formats` has all. */
      format: largest?.[0] ?? 'none',
      formats: info.formats,
      sparsity: info.sparsity,
      weight_bytes: info.weightBytes,
      dense_f32_bytes: info.denseF32Bytes,
      kv_type: info.kvType,
      ...(lora !== undefined && { lora_rank: lora.rank }),
    };
  };
  api.get(
    '/v1/models',
    {
      schema: {
        summary: 'The models of this server',
        tags: ['models'],
        response: {
          200: Type.Object({ object: Type.Literal('list'), data: Type.Array(modelSchema) }),
          401: errorResponses[401],
        },
      },
    },
    async () => ({ object: 'list' as const, data: modelNames(service).map(describe) }),
  );
  // A wildcard: names may hold slashes.
  api.get(
    '/v1/models/*',
    {
      schema: {
        summary: 'One model',
        tags: ['models'],
        params: Type.Object({ '*': Type.String() }),
        response: { 200: modelSchema, 401: errorResponses[401], 404: errorResponses[404] },
      },
    },
    async (request) => describe(resolveName(service, request.params['*'] || '(none)')),
  );
}
