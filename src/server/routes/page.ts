import Type from 'typebox';
import { FiligreeError } from '../../errors.js';
import { readAssets, sendAsset } from '../page.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

/** The built-in page at `/`, its files, and what it says of the model. */
export function pageRoutes(api: Api, service: Service): void {
  const assets = readAssets();
  const { model, version } = service;

  api.get(
    '/',
    {
      schema: {
        summary: 'The built-in page; as JSON where HTML is not accepted',
        tags: ['operation'],
        response: {
          200: {
            description: 'The page, or what the server is.',
            content: {
              'application/json': { schema: Type.Object({}, { additionalProperties: true }) },
              'text/html': { schema: Type.String() },
            },
          },
        },
      },
    },
    async (request, reply) => {
      const page = assets.get('index.html');
      void reply.header('vary', 'accept');
      if (page && (request.headers.accept ?? '').includes('text/html'))
        return sendAsset(request, reply, page) as never;
      return {
        name: 'filigree',
        version,
        model: model.names[0],
        chat: '/v1/chat/completions',
        completions: '/v1/completions',
        websocket: '/v1/stream',
        documentation: '/docs',
      };
    },
  );

  api.get('/page/model.json', { schema: { hide: true } }, async () => describe(service));

  api.get(
    '/page/:file',
    { schema: { hide: true, params: Type.Object({ file: Type.String() }) } },
    async (request, reply) => {
      const asset = assets.get(request.params.file);
      if (!asset) throw new FiligreeError('not_found', 'The page has no such file.');
      return sendAsset(request, reply, asset);
    },
  );
}

function describe(service: Service): object {
  const { info, maxNumSeqs } = service.engine;
  const { names, architecture, picture } = service.model;
  return {
    name: names[0],
    architecture,
    layers: picture?.layers ?? 0,
    max_model_len: info.maxModelLen,
    max_num_seqs: maxNumSeqs,
    isa: info.isa,
    threads: info.threads,
    kv_type: info.kvType,
    formats: info.formats,
    weight_bytes: info.weightBytes,
    dense_f32_bytes: info.denseF32Bytes,
    sparsity: info.sparsity,
    zeros: picture ? picture.zeros() : {},
    compare: [...(service.variants ?? [])].map(([name, { label, service: variant }]) => ({
      name,
      label,
      format: Object.entries(variant.engine.info.formats).sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'none',
      weight_bytes: variant.engine.info.weightBytes,
      sparsity: variant.engine.info.sparsity,
    })),
  };
}
