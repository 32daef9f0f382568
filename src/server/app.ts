import { randomUUID } from 'node:crypto';
import cors from '@fastify/cors';
import rateLimit from '@fastify/rate-limit';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import websocket from '@fastify/websocket';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { TSchema } from 'typebox';
import { FiligreeError } from '../errors.js';
import { chooseProtocol, KeyRing, presentedKey } from './auth.js';
import { asFiligreeError, clientErrorAnswer, errorBodyFor, registerErrors } from './http-errors.js';
import { registerJson } from './json-body.js';
import { chatRoutes } from './routes/chat.js';
import { completionRoutes } from './routes/completions.js';
import { discoveryRoutes } from './routes/discovery.js';
import { embeddingRoutes } from './routes/embeddings.js';
import { messageRoutes } from './routes/messages.js';
import { modelRoutes } from './routes/models.js';
import { operationRoutes } from './routes/operations.js';
import { pageRoutes } from './routes/page.js';
import { responseRoutes } from './routes/responses.js';
import { streamRoutes } from './routes/stream.js';
import { tokenRoutes } from './routes/tokens.js';
import { tell } from './schemas/told.js';
import { validator } from './schemas/validate.js';
import type { Service } from './service.js';
import { registerTracing } from './tracing.js';

export interface ServerOptions {
  /** Keys that open `/v1`, the tokenizer routes and the WebSocket; none leaves them open. */
  apiKeys?: readonly string[];
  /** Keys for every route, probes and metrics included. */
  protectAll?: boolean;
  /** Origins that browsers may call from; none: no CORS headers. `*` is every origin. */
  cors?: readonly string[];
  /** Requests a minute of one caller: a key, or else an address. */
  rateLimit?: number;
  /** Most bytes of a body or a WebSocket message. */
  bodyLimit?: number;
  /** Answers under way at once on one WebSocket. */
  maxRequestsPerSocket?: number;
  logger?: FastifyBaseLogger;
}

export type App = ReturnType<typeof createApp>;

const DESCRIPTION = `OpenAI-compatible inference server.

OpenAPI knows no WebSockets: \`WS /v1/stream\` carries many requests at once on one socket, as JSON texts. To the server:
\`{"type": "chat.completions", "id": "a", "body": {…}}\` or \`"completions"\`, with the body of the route of that name, and
\`{"type": "cancel", "id": "a"}\`. To the client, each under its \`id\`: \`chunk\` and \`response\` with \`data\`, \`error\`, and last
\`done\`.

What a 400 may refuse although the schemas allow it: a prompt and an answer that do not fit the context together; \`min_tokens\`
above the answer's limit; \`best_of\` below \`n\`; \`ignore_eos\` with a constrained answer; \`top_logprobs\` without \`logprobs\`; a
\`tool_choice\` that names none of the \`tools\`; a JSON Schema, regular expression or grammar that cannot be honoured; arguments of
an earlier call that are not JSON; to go on from, or to cancel, a response that is still or was never in the background. Its
\`param\` says which.`;

const DEFAULT_BODY_LIMIT = 32 * 1024 * 1024;
const DEFAULT_REQUESTS_PER_SOCKET = 128;

/** A request id that is safe to log and to echo; a caller's other ids are replaced. */
function requestId(header: string | string[] | undefined): string {
  return typeof header === 'string' && /^[\x21-\x7e]{1,128}$/.test(header) ? header : randomUUID();
}

function createApp(options: ServerOptions) {
  return Fastify({
    ...(options.logger ? { loggerInstance: options.logger } : { logger: false }),
    bodyLimit: options.bodyLimit ?? DEFAULT_BODY_LIMIT,
    genReqId: (request) => requestId(request.headers['x-request-id']),
    // One line of our own for each answer (registerTracing) instead of Fastify's two.
    logController: new LogController({ disableRequestLogging: true }),
    routerOptions: { maxParamLength: 512, ignoreTrailingSlash: true },
    frameworkErrors: (error, request, reply) => {
      const known = asFiligreeError(error);
      reply.header('x-request-id', request.id);
      (reply as FastifyReply)
        .code(known.info.status)
        .type('application/json; charset=utf-8')
        .send(errorBodyFor(request, known));
    },
    clientErrorHandler(error, socket) {
      if (socket.writable && error.code !== 'ECONNRESET') socket.write(clientErrorAnswer(error.code));
      socket.destroy();
    },
  }).withTypeProvider<TypeBoxTypeProvider>();
}

/** Counts a caller's requests: its key, or else its address. @throws FiligreeError rate_limit_exceeded */
export type RateCheck = (request: FastifyRequest) => Promise<void>;

async function registerRateLimit(app: FastifyInstance, perMinute: number | undefined): Promise<RateCheck> {
  if (perMinute === undefined) return async () => {};
  await app.register(rateLimit, { global: false });
  const check = app.createRateLimit({
    max: perMinute,
    timeWindow: 60_000,
    keyGenerator: (request) => presentedKey(request.headers) ?? request.ip,
  });
  return async (request) => {
    const answer = await check(request);
    if (answer.isAllowed || !answer.isExceeded) return;
    throw new FiligreeError('rate_limit_exceeded', `More than ${perMinute} requests a minute. Slow down.`, {
      retryAfter: answer.ttlInSeconds,
    });
  };
}

/**
 * The whole HTTP interface over a service, without listening: `app.inject` tests it, `app.listen` serves it.
 *
 * Routes stand in `routes/`, one file a family. Those that cost or reveal something live in the protected scope.
 */
export async function buildApp(service: Service, options: ServerOptions = {}): Promise<App> {
  const app = createApp(options);
  app.setValidatorCompiler(({ schema }) => {
    const check = validator(schema as TSchema);
    return (value) => {
      try {
        return { value: check(value) };
      } catch (error) {
        return { error: error as FiligreeError };
      }
    };
  });
  // Response schemas document; they must not drop what they do not name.
  app.setSerializerCompiler(() => JSON.stringify);
  registerErrors(app);
  registerJson(app);
  registerTracing(app);
  const keys = new KeyRing(options.apiKeys ?? []);
  if (options.protectAll) app.addHook('onRequest', async (request) => keys.check(request.headers));
  if (options.cors && options.cors.length > 0) {
    await app.register(cors, {
      origin: options.cors.includes('*') ? '*' : [...options.cors],
      exposedHeaders: ['x-request-id', 'retry-after'],
    });
  }
  const checkRate = await registerRateLimit(app, options.rateLimit);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Filigree',
        version: service.version,
        description: DESCRIPTION,
      },
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } },
    },
    transformObject: (document) =>
      tell('openapiObject' in document ? document.openapiObject : document.swaggerObject, service),
  });
  await app.register(swaggerUi, { routePrefix: '/docs' });
  await app.register(websocket, {
    options: {
      maxPayload: options.bodyLimit ?? DEFAULT_BODY_LIMIT,
      handleProtocols: chooseProtocol,
    },
  });

  operationRoutes(app, service);
  discoveryRoutes(app, service);
  pageRoutes(app, service);
  await app.register(async (scope) => {
    const api = scope.withTypeProvider<TypeBoxTypeProvider>();
    if (!options.protectAll) api.addHook('onRequest', async (request) => keys.check(request.headers));
    api.addHook('onRequest', async (request) => {
      if (!request.ws) await checkRate(request);
    });
    modelRoutes(api, service);
    chatRoutes(api, service);
    completionRoutes(api, service);
    embeddingRoutes(api, service);
    responseRoutes(api, service);
    messageRoutes(api, service);
    tokenRoutes(api, service);
    streamRoutes(api, service, {
      maxRequests: options.maxRequestsPerSocket ?? DEFAULT_REQUESTS_PER_SOCKET,
      checkRate,
    });
  });
  await app.ready();
  return app;
}
