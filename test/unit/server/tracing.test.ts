import { type Context, type SpanOptions, trace } from '@opentelemetry/api';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { remoteSpan } from '../../../src/server/tracing.js';
import { type Fixture, type Json, says, serve, until, user } from './fixture.js';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';
let fixture: Fixture;
afterEach(async () => {
  trace.disable();
  await fixture?.close();
});

describe('W3C trace context', () => {
  it('makes a span under the caller’s, with the route and the status', async () => {
    const spans: Json[] = [];
    trace.setGlobalTracerProvider({
      getTracer: () =>
        ({
          startSpan(name: string, options: SpanOptions, parent: Context) {
            const span: Json = { name, ...options, parent: trace.getSpanContext(parent), ended: false };
            spans.push(span);
            return {
              spanContext: () => ({ traceId: TRACE, spanId: '1'.repeat(16), traceFlags: 1 }),
              setAttribute: (key: string, value: unknown) => {
                span.attributes[key] = value;
              },
              setStatus: () => {},
              end: () => {
                span.ended = true;
              },
            };
          },
        }) as never,
    });
    const lines: Json[] = [];
    const logger = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    fixture = await serve(says('x'), { server: { logger } });
    const headers = { traceparent: `00-${TRACE}-${SPAN}-01`, 'x-request-id': 'mine' };
    await fixture.post('/v1/chat/completions', { messages: user('a') }, headers);
    expect(spans).toHaveLength(1);
    expect(spans[0]).toMatchObject({
      name: 'POST /v1/chat/completions',
      parent: { traceId: TRACE, spanId: SPAN, isRemote: true },
      attributes: {
        'http.route': '/v1/chat/completions',
        'http.response.status_code': 200,
        'filigree.request_id': 'mine',
      },
      ended: true,
    });
    expect(lines.at(-1)).toMatchObject({ reqId: 'mine', trace_id: TRACE, status: 200, msg: 'answered' });
    await fixture.app.inject({ url: '/health' });
    expect(spans).toHaveLength(1);
  });

  it('logs the trace without an SDK', async () => {
    const lines: Json[] = [];
    const logger = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    fixture = await serve(says('x'), { server: { logger } });
    await fixture.post('/tokenize', { prompt: 'a' }, { traceparent: `00-${TRACE}-${SPAN}-00` });
    expect(lines.at(-1)).toMatchObject({ trace_id: TRACE, span_id: SPAN });
  });

  it.each([
    undefined,
    '',
    'x',
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}`,
    [`00-${TRACE}-${SPAN}-01`],
  ])('takes no span from %j', (header) => expect(remoteSpan(header)).toBeNull());
});

describe('the log', () => {
  /** Requests that every family of routes answers. */
  const ROUTES: [string, Json][] = [
    ['/v1/chat/completions', { messages: user('a'), max_tokens: 2 }],
    ['/v1/chat/completions', { messages: user('a'), max_tokens: 2, stream: true }],
    ['/v1/completions', { prompt: 'a', max_tokens: 2 }],
    ['/v1/responses', { input: 'a', max_output_tokens: 16 }],
    ['/v1/responses', { input: 'a', max_output_tokens: 16, stream: true }],
    ['/v1/messages', { model: 'test-model', messages: user('a'), max_tokens: 2 }],
    ['/v1/messages', { model: 'test-model', messages: user('a'), max_tokens: 2, stream: true }],
    ['/v1/messages/count_tokens', { model: 'test-model', messages: user('a') }],
    ['/v1/embeddings', { model: 'test-model', input: 'a' }],
    ['/tokenize', { prompt: 'a' }],
    ['/detokenize', { tokens: [5] }],
    ['/apply-template', { messages: user('a') }],
    ['/v1/chat/completions', { messages: 'no list' }],
    ['/v1/messages', { messages: 'no list' }],
    ['/v1/nothing', {}],
  ];
  const collect = () => {
    const lines: Json[] = [];
    const logger = pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
    return { lines, logger };
  };

  it('has one line for each answer, with the id that the caller sent and gets back, on every route', async () => {
    const { lines, logger } = collect();
    fixture = await serve(says('x'), { server: { logger } });
    for (const [i, [url, body]] of ROUTES.entries()) {
      const { headers, status } = await fixture.post(url, body, { 'x-request-id': `call-${i}` });
      expect(headers['x-request-id']).toBe(`call-${i}`);
      const answered = lines.filter(({ msg, reqId }) => msg === 'answered' && reqId === `call-${i}`);
      expect(answered).toMatchObject([{ method: 'POST', path: url, status, ms: expect.any(Number) }]);
    }
    for (const url of ['/v1/models', '/kv_event_sources', '/get_server_info']) {
      await fixture.app.inject({ url, headers: { 'x-request-id': url } });
      expect(lines.at(-1)).toMatchObject({ msg: 'answered', reqId: url, path: url, status: 200 });
    }
  });

  it('has a line for each request on a WebSocket, with the socket’s id and its own', async () => {
    const { lines, logger } = collect();
    fixture = await serve(says('x'), { server: { logger } });
    const socket = await fixture.app.injectWS('/v1/stream', { headers: { 'x-request-id': 'socket' } });
    const body = { messages: user('a'), max_tokens: 2 };
    socket.send(JSON.stringify({ type: 'chat.completions', id: 'one', body }));
    socket.send(JSON.stringify({ type: 'completions', id: 'two', body: { prompt: 5 } }));
    const answered = () => lines.filter(({ msg, method }) => msg === 'answered' && method === 'WS');
    await until('both are logged', () => answered().length === 2);
    socket.terminate();
    expect(answered().sort((a, b) => a.socketRequest.localeCompare(b.socketRequest))).toMatchObject([
      { reqId: 'socket', socketRequest: 'one', path: '/v1/chat/completions', status: 200 },
      { reqId: 'socket', socketRequest: 'two', path: '/v1/completions', status: 400 },
    ]);
  });
});
