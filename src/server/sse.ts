import { once } from 'node:events';
import type { FastifyReply } from 'fastify';
import { asFiligreeError, errorBody } from './http-errors.js';

/**
 * Sends chunks as server-sent events, `[DONE]` last.
 *
 * Headers wait for the first chunk, so that what fails before it still gets its own status. A socket that is full
 * stops the reading of chunks; what is generated meanwhile merges into the next one (see TextGeneration).
 */
export async function sendEvents(reply: FastifyReply, chunks: AsyncGenerator<object>): Promise<void> {
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
  try {
    while (!next.done && !gone()) {
      if (!raw.write(`data: ${JSON.stringify(next.value)}\n\n`)) await writable(raw);
      next = await chunks.next();
    }
    if (!gone()) raw.end('data: [DONE]\n\n');
  } catch (error) {
    if (gone()) return;
    const known = asFiligreeError(error);
    reply.log.error({ err: known.cause ?? known }, 'stream failed');
    raw.end(`data: ${JSON.stringify(errorBody(known))}\n\n`);
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
