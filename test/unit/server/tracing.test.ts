import { type Context, type SpanOptions, trace } from '@opentelemetry/api';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { remoteSpan } from '../../../src/server/tracing.js';
import { type Fixture, type Json, says, serve, user } from './fixture.js';

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
