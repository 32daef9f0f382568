import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Call, Exchange } from './exchange.js';
import { unknownParameters } from './schemas/unknown.js';
import type { Service } from './service.js';
import { CHUNKS, type EventFormat, sendEvents } from './sse.js';

/** Runs one exchange over HTTP, streamed or whole. A client that leaves cancels it. */
export async function answer(
  service: Service,
  request: FastifyRequest,
  reply: FastifyReply,
  schema: object,
  start: (call: Call) => Promise<Exchange>,
  format: EventFormat = CHUNKS,
): Promise<void> {
  const leave = service.lifecycle.enter();
  const { raw } = reply;
  let exchange: Exchange | null = null;
  let gone = false;
  const onClose = () => {
    gone = true;
    exchange?.cancel();
  };
  raw.once('close', onClose);
  try {
    const body = request.body as { stream?: boolean | null };
    const unknown = unknownParameters(schema, body);
    if (unknown.length > 0) request.log.warn({ parameters: unknown }, 'unknown parameters are ignored');
    exchange = await start({ requestId: request.id, arrival: request.arrival });
    if (gone) exchange.cancel();
    const streams = 'stream' in (schema as { properties: object }).properties && body.stream;
    if (streams) await sendEvents(reply, exchange.chunks(), format);
    else {
      const response = await exchange.response();
      await reply.send(response);
    }
  } finally {
    raw.off('close', onClose);
    leave();
  }
}
