import type { WebSocket } from '@fastify/websocket';
import type { FastifyRequest } from 'fastify';
import Type, { type Static } from 'typebox';
import { ERROR_CODES, FiligreeError } from '../../errors.js';
import type { RateCheck } from '../app.js';
import { startChat } from '../chat.js';
import { startCompletion } from '../completions.js';
import type { Call, Exchange } from '../exchange.js';
import { asFiligreeError, errorBody } from '../http-errors.js';
import { parseJson } from '../json-body.js';
import { chatBody } from '../schemas/chat.js';
import { errorResponses } from '../schemas/common.js';
import { completionBody } from '../schemas/completions.js';
import { unknownParameters } from '../schemas/unknown.js';
import { validator } from '../schemas/validate.js';
import type { Service } from '../service.js';
import type { Api } from './api.js';

/**
 * `WS /v1/stream`: many requests at once on one socket, each under an id that the client chooses.
 *
 * To the server, one JSON text message each:
 *   {"type": "chat.completions", "id": "a", "body": {...}}   the body of POST /v1/chat/completions
 *   {"type": "completions", "id": "b", "body": {...}}        the body of POST /v1/completions
 *   {"type": "cancel", "id": "a"}
 * To the client:
 *   {"id": "a", "type": "chunk", "data": {...}}      exactly the chunks of server-sent events
 *   {"id": "a", "type": "response", "data": {...}}   the whole answer, where the body says "stream": false
 *   {"id": "a", "type": "error", "error": {...}}     id null where the message had none that could be read
 *   {"id": "a", "type": "done", "cancelled": false}  the last message of every request, also after an error
 * An id may be used again once its request is done; one used earlier gets an error and leaves the first alone.
 */
const messageSchema = Type.Object({
  type: Type.Enum(['chat.completions', 'completions', 'cancel']),
  id: Type.String({ minLength: 1, maxLength: 128 }),
  body: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
});

/** Unsent bytes at which requests stop reading chunks; what is generated meanwhile merges into the next chunk. */
const HIGH_WATER_BYTES = 1024 * 1024;
const PING_MS = 30_000;

const readMessage = validator(messageSchema);
const bodies = {
  'chat.completions': { schema: chatBody, read: validator(chatBody), start: startChat },
  completions: { schema: completionBody, read: validator(completionBody), start: startCompletion },
};

export interface StreamOptions {
  /** Requests under way on one socket. */
  maxRequests: number;
  checkRate: RateCheck;
}

interface Running {
  exchange: Exchange | null;
  cancelled: boolean;
}

/** One socket: its requests, and the order in which it hands bytes over. */
class Connection {
  private readonly running = new Map<string, Running>();
  private readonly heartbeat: NodeJS.Timeout;
  private alive = true;

  constructor(
    private readonly socket: WebSocket,
    private readonly request: FastifyRequest,
    private readonly service: Service,
    private readonly options: StreamOptions,
  ) {
    socket.on('message', (data, isBinary) => void this.receive(data.toString(), isBinary));
    socket.on('close', () => this.close());
    socket.on('pong', () => {
      this.alive = true;
    });
    this.heartbeat = setInterval(() => {
      if (!this.alive) return socket.terminate();
      this.alive = false;
      socket.ping();
    }, PING_MS);
    this.heartbeat.unref();
  }

  private close(): void {
    clearInterval(this.heartbeat);
    for (const entry of this.running.values()) {
      entry.cancelled = true;
      entry.exchange?.cancel();
    }
  }

  private async receive(text: string, isBinary: boolean): Promise<void> {
    let id: string | null = null;
    try {
      if (isBinary) throw new FiligreeError('invalid_value', 'Messages are JSON text, not binary.');
      const raw = parseJson(text);
      id = idOf(raw);
      const message = readMessage(raw);
      if (message.type === 'cancel') this.cancel(message.id);
      else await this.run(message.id, message.type, message);
    } catch (error) {
      await this.send(id, 'error', errorBody(asFiligreeError(error)));
    }
  }

  private cancel(id: string): void {
    const entry = this.running.get(id);
    // One that has just ended is no mistake of the client's.
    if (entry === undefined) return;
    entry.cancelled = true;
    entry.exchange?.cancel();
  }

  private async run(
    id: string,
    type: keyof typeof bodies,
    message: Static<typeof messageSchema>,
  ): Promise<void> {
    if (this.running.has(id))
      throw new FiligreeError('invalid_value', `A request with the id '${id}' is under way.`, {
        param: 'id',
      });
    if (this.running.size >= this.options.maxRequests)
      throw new FiligreeError(
        'rate_limit_exceeded',
        `This socket has ${this.running.size} requests under way, the most it may have.`,
        { retryAfter: 1 },
      );
    const entry: Running = { exchange: null, cancelled: false };
    this.running.set(id, entry);
    const log = this.request.log.child({ socketRequest: id });
    const arrival = performance.now();
    let status = 200;
    let leave = () => {};
    try {
      await this.options.checkRate(this.request);
      leave = this.service.lifecycle.enter();
      const { schema, read, start } = bodies[type];
      const whole = message.body?.stream === false;
      const body = read({ ...message.body, stream: !whole });
      const unknown = unknownParameters(schema, body);
      if (unknown.length > 0) log.warn({ parameters: unknown }, 'unknown parameters are ignored');
      const call: Call = { requestId: `${this.request.id}/${id}`, arrival };
      entry.exchange = await (start as (s: Service, b: unknown, c: Call) => Promise<Exchange>)(
        this.service,
        body,
        call,
      );
      if (entry.cancelled) entry.exchange.cancel();
      if (whole) await this.send(id, 'response', { data: await entry.exchange.response() });
      else for await (const data of entry.exchange.chunks()) await this.send(id, 'chunk', { data });
    } catch (error) {
      const known = asFiligreeError(error);
      status = known.info.status;
      if (!entry.cancelled) {
        if (known.info.local) log.error({ err: known.cause ?? known }, 'request failed');
        await this.send(id, 'error', errorBody(known));
      }
    } finally {
      this.running.delete(id);
      leave();
    }
    if (entry.cancelled) status = ERROR_CODES.request_aborted.status;
    const ms = Math.round((performance.now() - arrival) * 10) / 10;
    log.info({ method: 'WS', path: `/v1/${type.replace('.', '/')}`, status, ms }, 'answered');
    await this.send(id, 'done', { cancelled: entry.cancelled });
  }

  /** Resolves when the socket can take more. */
  private async send(id: string | null, type: string, content: object): Promise<void> {
    const { socket } = this;
    if (socket.readyState !== socket.OPEN) return;
    const text = JSON.stringify({ id, type, ...content });
    if (socket.bufferedAmount < HIGH_WATER_BYTES) return socket.send(text);
    // The callback comes when this message is written, and with an error when the socket closes.
    await new Promise<void>((resolve) => socket.send(text, () => resolve()));
  }
}

function idOf(raw: unknown): string | null {
  const id = (raw as { id?: unknown } | null)?.id;
  return typeof id === 'string' && id.length <= 128 ? id : null;
}

export function streamRoutes(api: Api, service: Service, options: StreamOptions): void {
  api.route({
    method: 'GET',
    url: '/v1/stream',
    schema: {
      // No OpenAPI: the document's description tells of it.
      hide: true,
      summary: 'WebSocket: many requests at once on one socket',
      tags: ['generation'],
      response: {
        101: Type.Null({ description: 'The socket is open.' }),
        400: errorResponses[400],
        401: errorResponses[401],
        429: errorResponses[429],
      },
    },
    handler: async () => {
      throw new FiligreeError('invalid_value', 'This is a WebSocket: connect with ws://, not http://.');
    },
    wsHandler: (socket, request) => {
      request.log.info({ ip: request.ip }, 'socket opened');
      new Connection(socket, request, service, options);
    },
  });
}
