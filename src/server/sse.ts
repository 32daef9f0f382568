import { once } from 'node:events';
import type { FastifyReply } from 'fastify';
import type { FiligreeError } from '../errors.js';
import { anthropicErrorBody, asFiligreeError, errorBody } from './http-errors.js';

/** How an API spells a stream of server-sent events. */
export interface EventFormat {
  event(value: object): string;
  failure(error: FiligreeError, sent: number): string;
  /** What ends a stream that did not fail. */
  end: string;
}

const named = (value: object) =>
  `event: ${(value as { type: string }).type}\ndata: ${JSON.stringify(value)}\n\n`;

/** Chat and text completions: bare chunks, `[DONE]` last. */
export const CHUNKS: EventFormat = {
  event: (value) => `data: ${JSON.stringify(value)}\n\n`,
  failure: (error) => `data: ${JSON.stringify(errorBody(error))}\n\n`,
  end: 'data: [DONE]\n\n',
};

/** `/v1/responses`: events named by their type. */
export const RESPONSE_EVENTS: EventFormat = {
  event: named,
  failure: (error, sent) => {
    const { message, code, param } = errorBody(error).error;
    return named({ type: 'error', code, message, param, sequence_number: sent });
  },
  end: '',
};

/** `/v1/messages`: Anthropic's. */
export const MESSAGE_EVENTS: EventFormat = {
  event: named,
  failure: (error) => named(anthropicErrorBody(error)),
  end: '',
};

/**
 * Sends chunks as server-sent events.
 *
 * Headers wait for the first chunk, so that what fails before it still gets its own status. A socket that is full
 * stops the reading of chunks; what is generated meanwhile merges into the next one (see TextGeneration).
 */
export async function sendEvents(
  reply: FastifyReply,
  chunks: AsyncGenerator<object>,
  format: EventFormat,
): Promise<void> {
  let next = await chunks.next();
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
  });
  const gone = () => raw.destroyed || raw.writableEnded;
  let sent = 0;
  try {
    while (!next.done && !gone()) {
      sent++;
      if (!raw.write(format.event(next.value))) await writable(raw);
      next = await chunks.next();
    }
    if (!gone()) raw.end(format.end);
  } catch (error) {
    if (gone()) return;
    const known = asFiligreeError(error);
    reply.log.error({ err: known.cause ?? known }, 'stream failed');
    raw.end(format.failure(known, sent));
  } finally {
    await chunks.return(undefined);
  }
}

async function writable(raw: FastifyReply['raw']): Promise<void> {
  if (raw.destroyed) return;
  const abort = new AbortController();
  const { signal } = abort;
  await Promise.race([once(raw, 'drain', { signal }), once(raw, 'close', { signal })]).catch(() => {});
  abort.abort();
}
