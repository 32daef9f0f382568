import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { ERROR_CODES, type ErrorCode, FiligreeError } from '../errors.js';

/** OpenAI's error shape. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string };
}

/** What Fastify itself refuses, in our codes. */
const FASTIFY_CODES: Record<string, [ErrorCode, string?]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ['request_too_large'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    'unsupported_media_type',
    'The body must be JSON: set Content-Type: application/json.',
  ],
  FST_ERR_CTP_EMPTY_JSON_BODY: ['invalid_json', 'The body is empty, but Content-Type announces JSON.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['invalid_json', 'The body is not as long as Content-Length says.'],
  FST_ERR_BAD_URL: ['invalid_value', 'The URL is malformed.'],
  FST_ERR_ASYNC_CONSTRAINT: ['invalid_value'],
  FST_ERR_MAX_PARAM_LENGTH: ['invalid_value', 'A part of the URL is too long.'],
};

/** Any error as one of ours. What is not meant for clients becomes `internal_error`. */
export function asFiligreeError(error: unknown): FiligreeError {
  if (error instanceof FiligreeError) return error;
  const { code, message, statusCode } = error as Partial<FastifyError>;
  const known = typeof code === 'string' ? FASTIFY_CODES[code] : undefined;
  if (known) return new FiligreeError(known[0], known[1] ?? message ?? 'Bad request.', { cause: error });
  if (statusCode === 400)
    return new FiligreeError('invalid_value', message ?? 'Bad request.', { cause: error });
  return new FiligreeError('internal_error', message ?? String(error), { cause: error });
}

export function errorBody(error: FiligreeError): ErrorBody {
  const { type, local } = error.info;
  const message = local
    ? 'The server failed to answer. Its log says why, under this request id.'
    : error.message;
  return { error: { message, type, param: error.param, code: local ? 'internal_error' : error.code } };
}

/** Anthropic's `error.type` by status. */
const ANTHROPIC_TYPES: Record<number, string> = {
  401: 'authentication_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  500: 'api_error',
  503: 'overloaded_error',
};

/** Anthropic's error shape. */
export function anthropicErrorBody(error: FiligreeError, requestId: string | null = null): object {
  const type = ANTHROPIC_TYPES[error.info.status] ?? 'invalid_request_error';
  return { type: 'error', error: { type, message: errorBody(error).error.message }, request_id: requestId };
}

/** The body in the dialect of the route: Anthropic's under `/v1/messages`, else OpenAI's. */
export function errorBodyFor(request: Pick<FastifyRequest, 'url' | 'id'>, error: FiligreeError): object {
  return /^\/v1\/messages(?:[/?]|$)/.test(request.url)
    ? anthropicErrorBody(error, request.id)
    : errorBody(error);
}

function send(request: FastifyRequest, reply: FastifyReply, error: FiligreeError): FastifyReply {
  const { status } = error.info;
  if (status >= 500 && error.info.local) request.log.error({ err: error.cause ?? error }, 'request failed');
  if (status === 429 || status === 503) void reply.header('retry-after', String(error.retryAfter ?? 1));
  if (status === 401) void reply.header('www-authenticate', 'Bearer');
  return reply.code(status).type('application/json; charset=utf-8').send(errorBodyFor(request, error));
}

/** Which methods a path takes, by the routes that were declared. */
class RouteTable {
  private readonly routes = new Map<string, { pattern: RegExp; methods: Set<string> }>();

  add(url: string, methods: string | string[]): void {
    const source = url
      .split(/(:\w+|\*)/)
      .map((part, i) =>
        i % 2 === 0 ? part.replace(/[.+?^${}()|[\]\\]/g, '\\$&') : part === '*' ? '.*' : '[^/]+',
      )
      .join('');
    const route = this.routes.get(url) ?? { pattern: new RegExp(`^${source}/?$`), methods: new Set() };
    for (const name of [methods].flat()) route.methods.add(name);
    this.routes.set(url, route);
  }

  methodsOf(path: string): string[] {
    const found = [...this.routes.values()].filter(({ pattern }) => pattern.test(path));
    return [...new Set(found.flatMap(({ methods }) => [...methods]))];
  }
}

/** Answers every failure of every route in OpenAI's shape: refusals, our own faults, unknown routes. */
export function registerErrors(app: FastifyInstance): void {
  const routes = new RouteTable();
  app.addHook('onRoute', ({ url, method }) => routes.add(url, method));
  const pathOf = (request: FastifyRequest) => request.url.split('?', 1)[0] ?? '';
  // No route takes it, and Fastify would judge its headers first.
  app.addHook('onRequest', async (request, reply) => {
    if (request.method !== 'QUERY') return;
    void reply.header('allow', routes.methodsOf(pathOf(request)).join(', '));
    throw new FiligreeError('method_not_allowed', 'No route of this server takes QUERY.');
  });
  app.setErrorHandler((error, request, reply) => send(request, reply, asFiligreeError(error)));
  app.setNotFoundHandler((request, reply) => {
    const path = pathOf(request);
    const allowed = routes.methodsOf(path);
    const shown = path.length > 200 ? `${path.slice(0, 200)}...` : path;
    if (allowed.length > 0) {
      void reply.header('allow', allowed.join(', '));
      const names = allowed.join(' or ');
      return send(
        request,
        reply,
        new FiligreeError('method_not_allowed', `${shown} takes ${names}, not ${request.method}.`),
      );
    }
    const message = `Unknown request URL: ${request.method} ${shown}. GET /docs lists what there is.`;
    return send(request, reply, new FiligreeError('not_found', message));
  });
}

/** For what fails before there is a request: a malformed HTTP message gets the shape too. */
export function clientErrorAnswer(code: string | undefined): string {
  const table: Record<string, [number, string, string]> = {
    HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large', 'The headers are too large.'],
    ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout', 'The request took too long to arrive.'],
  };
  const [status, reason, message] = table[code ?? ''] ?? [
    400,
    'Bad Request',
    'This is not a well-formed HTTP request.',
  ];
  const body = JSON.stringify({
    error: { message, type: ERROR_CODES.invalid_value.type, param: null, code: 'invalid_value' },
  } satisfies ErrorBody);
  return (
    `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`
  );
}
