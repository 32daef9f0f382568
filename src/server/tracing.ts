import { context, type Span, SpanKind, SpanStatusCode, TraceFlags, trace } from '@opentelemetry/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';

declare module 'fastify' {
  interface FastifyRequest {
    /** When the request's head was read, in the clock of `performance.now()`. */
    arrival: number;
    span: Span | null;
  }
}

const TRACEPARENT = /^[\da-f]{2}-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})$/;
const PROBE = /^\/(health|ready|ping|load|metrics|is_sleeping)$/;

/** The caller's span of W3C trace context; null where the header is missing or malformed. */
export function remoteSpan(header: string | string[] | undefined) {
  const [, traceId, spanId, flags] = (typeof header === 'string' && TRACEPARENT.exec(header)) || [];
  if (!traceId || !spanId || /^0+$/.test(traceId) || /^0+$/.test(spanId)) return null;
  return {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags ?? '0', 16) & TraceFlags.SAMPLED,
    isRemote: true,
  };
}

function startSpan(request: FastifyRequest, path: string): Span {
  const { method, url } = request.routeOptions;
  const remote = remoteSpan(request.headers.traceparent);
  const parent = remote === null ? context.active() : trace.setSpanContext(context.active(), remote);
  const route = url ?? path;
  return trace.getTracer('filigree').startSpan(
    `${Array.isArray(method) ? request.method : (method ?? request.method)} ${route}`,
    {
      kind: SpanKind.SERVER,
      attributes: {
        'http.request.method': request.method,
        'http.route': route,
        'url.path': path,
        'client.address': request.ip,
        'filigree.request_id': request.id,
      },
    },
    parent,
  );
}

/**
 * Request ids, timing, one log line an answer and one span a request. Spans go wherever the OpenTelemetry SDK sends
 * them that the operator loads (`node --import ./otel.mjs`); without one they cost nothing.
 */
export function registerTracing(app: FastifyInstance): void {
  app.decorateRequest('arrival', 0);
  app.decorateRequest('span', null);
  app.addHook('onRequest', async (request, reply) => {
    request.arrival = performance.now();
    reply.header('x-request-id', request.id);
    const path = request.url.split('?', 1)[0] ?? '';
    if (!PROBE.test(path)) request.span = startSpan(request, path);
    const own = request.span?.spanContext();
    const known = own && trace.isSpanContextValid(own) ? own : remoteSpan(request.headers.traceparent);
    if (known) {
      const { traceparent } = request.headers;
      request.log = request.log.child({ trace_id: known.traceId, span_id: known.spanId, traceparent });
    }
  });
  app.addHook('onResponse', async (request, reply) => {
    const { method, url, ip, span } = request;
    const status = reply.raw.statusCode;
    const ms = Math.round((performance.now() - request.arrival) * 10) / 10;
    const path = url.split('?', 1)[0] ?? '';
    request.log[PROBE.test(path) ? 'debug' : 'info']({ method, path, ip, status, ms }, 'answered');
    if (!span) return;
    span.setAttribute('http.response.status_code', status);
    if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
    span.end();
  });
}
