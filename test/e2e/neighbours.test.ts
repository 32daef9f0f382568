import { once } from 'node:events';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { babbles, type Fixture, type Json, serve, until, user } from '../unit/server/fixture.js';

/**
 * Bad neighbours on every route that generates: readers that do not read, clients that vanish, sockets opened and dropped by the
 * thousand. Memory stays bounded, no block is kept, and whoever behaves is served meanwhile.
 */
let fixture: Fixture;
let port: number;

const open = new Set<Socket>();
const connections = () => open.size;

beforeEach(async () => {
  open.clear();
  fixture = await serve(babbles, {
    runner: { maxModelLen: 8192, numBlocks: 2048 },
    engine: { queueLimit: 2000, queueTokenLimit: 10_000_000 },
  });
  fixture.app.server.on('connection', (socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
  });
  await fixture.app.listen({ host: '127.0.0.1', port: 0 });
  port = (fixture.app.server.address() as { port: number }).port;
});

afterEach(async () => {
  fixture.app.server.closeAllConnections();
  await fixture.close();
});

/** Bodies that stream a long answer, and what a whole stream ends with. */
const ROUTES: { url: string; body: (tokens: number) => Json; end: string }[] = [
  {
    url: '/v1/chat/completions',
    body: (max_tokens) => ({
      messages: user('a'),
      max_tokens,
      ignore_eos: true,
      stream: true,
      logprobs: true,
      top_logprobs: 20,
    }),
    end: 'data: [DONE]',
  },
  {
    url: '/v1/completions',
    body: (max_tokens) => ({ prompt: 'a', max_tokens, ignore_eos: true, stream: true, logprobs: 20 }),
    end: 'data: [DONE]',
  },
  {
    url: '/v1/responses',
    body: (max_output_tokens) => ({
      input: 'a',
      max_output_tokens,
      ignore_eos: true,
      stream: true,
      include: ['message.output_text.logprobs'],
      top_logprobs: 20,
    }),
    end: 'event: response.incomplete',
  },
  {
    url: '/v1/messages',
    body: (max_tokens) => ({ messages: user('a'), max_tokens, ignore_eos: true, stream: true }),
    end: 'event: message_stop',
  },
];

const idle = () => {
  const { running, waiting, usedBlocks } = fixture.engine.stats();
  return running + waiting + usedBlocks + fixture.service.lifecycle.active === 0;
};

const served = async () => {
  const { status, json } = await fixture.post('/v1/completions', { prompt: 'a', max_tokens: 4 });
  expect([status, json.choices?.[0]?.text.length]).toEqual([200, 4]);
};

/** The request as bytes, by hand: a client library would read for us. */
const raw = (url: string, body: string) =>
  `POST ${url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`;

describe.each(ROUTES)('$url', ({ url, body, end }) => {
  it('a reader that waits costs bounded memory and no blocks, and has the whole answer once it reads', async () => {
    let own: Socket | undefined;
    fixture.app.server.once('connection', (accepted) => {
      own = accepted;
    });
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    socket.pause();
    socket.write(raw(url, JSON.stringify(body(3000))));
    await until('all is generated', () => fixture.engine.stats().generationTokens >= 3000, 20_000);
    await until('blocks are free', () => fixture.engine.stats().usedBlocks === 0);
    expect(own?.writableLength).toBeLessThan(4 << 20);
    await served();
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (part) => {
      text += part;
    });
    socket.resume();
    await once(socket, 'close');
    expect(text).toContain(end);
    // Every token with its twenty alternatives, on the routes that give log-probabilities of chat.
    if (url === '/v1/chat/completions') expect(text.match(/"bytes"/g)?.length).toBe(3000 * 21);
    await until('nothing is left', idle);
  }, 30_000);

  it('clients that vanish, waiting for their first byte or in mid-stream, are forgotten', async () => {
    fixture.runner.stepMs = 1;
    const text = JSON.stringify(body(2000));
    for (let round = 0; round < 6; round++) {
      const calls = Array.from({ length: 25 }, (_, i) => {
        const call = request({
          port,
          host: '127.0.0.1',
          path: url,
          method: 'POST',
          headers: { 'content-type': 'application/json' },
        });
        call.on('error', () => {});
        call.on('response', (response) => response.on('error', () => {}).resume());
        call.end(i % 2 === 0 ? text : JSON.stringify({ ...body(2000), stream: false }));
        return call;
      });
      await new Promise((resolve) => setTimeout(resolve, round * 6));
      for (const call of calls) call.destroy();
    }
    await until('nothing is left', idle, 10_000);
    fixture.engine.check();
    await served();
  }, 30_000);

  it('a thousand sockets opened and dropped, some in the middle of a body, leave nothing', async () => {
    const whole = raw(url, JSON.stringify(body(200)));
    for (let round = 0; round < 20; round++) {
      const sockets = await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const socket = connect(port, '127.0.0.1');
          socket.on('error', () => {});
          await once(socket, 'connect');
          if (i % 3 > 0) socket.write(i % 3 === 1 ? whole : whole.slice(0, -20));
          return socket;
        }),
      );
      for (const socket of sockets) socket.destroy();
      if (round % 10 === 0) await served();
    }
    await until('nothing is left', idle, 10_000);
    await until('no connection is left', () => connections() === 0);
    fixture.engine.check();
  }, 30_000);

  it('one connection carries a hundred requests, one after another, and their order', async () => {
    // Sent at once, as HTTP/1.1 lets a client do: the answers come in the order of the requests.
    const ask = (i: number) => raw(url, JSON.stringify({ ...body(1 + (i % 9)), stream: i % 4 === 0 }));
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    let text = '';
    socket.setEncoding('utf8');
    socket.on('data', (part) => {
      text += part;
    });
    for (let i = 0; i < 100; i++) socket.write(i < 99 ? ask(i).replace('Connection: close\r\n', '') : ask(i));
    await once(socket, 'close');
    const answers = text.split('HTTP/1.1 200 OK\r\n').slice(1);
    expect(answers.length).toBe(100);
    expect(answers.map((answer) => answer.includes('text/event-stream'))).toEqual(
      answers.map((_, i) => i % 4 === 0),
    );
    await until('nothing is left', idle);
  }, 30_000);
});

describe('the WebSocket', () => {
  it('with a hundred answers that nobody reads costs bounded memory, and has them all once somebody does', async () => {
    let own: Socket | undefined;
    fixture.app.server.once('connection', (accepted) => {
      own = accepted;
    });
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`);
    await once(socket, 'open');
    socket.pause();
    for (let i = 0; i < 100; i++) {
      const { stream: _, ...plain } = (ROUTES[0] as (typeof ROUTES)[0]).body(60);
      socket.send(JSON.stringify({ type: 'chat.completions', id: `${i}`, body: plain }));
    }
    await until('all is generated', () => fixture.engine.stats().generationTokens >= 6000, 20_000);
    await until('blocks are free', () => fixture.engine.stats().usedBlocks === 0);
    // What it may hold unsent: the mark at which it stops, and the chunk of each request that passed it.
    expect(own?.writableLength).toBeLessThan(32 << 20);
    await served();
    const done = new Set<string>();
    let tokens = 0;
    socket.on('message', (data) => {
      const message: Json = JSON.parse(data.toString());
      tokens += message.data?.choices?.[0]?.logprobs?.content.length ?? 0;
      if (message.type === 'done') done.add(message.id);
    });
    socket.resume();
    await until('all are done', () => done.size === 100, 20_000);
    expect(tokens).toBe(6000);
    socket.terminate();
    await until('nothing is left', idle);
  }, 30_000);
});
