import { afterEach, describe, expect, it } from 'vitest';
import type { WebSocket } from 'ws';
import { babbles, type Fixture, type Json, says, serve, until, user } from './fixture.js';

let fixture: Fixture;
afterEach(async () => {
  await fixture.close();
});

/** A client that keeps every message. */
async function connect(headers: Record<string, string> = {}) {
  const messages: Json[] = [];
  const socket: WebSocket = await fixture.app.injectWS(
    '/v1/stream',
    { headers },
    { onInit: (ws) => ws.on('message', (data: Buffer) => messages.push(JSON.parse(data.toString()))) },
  );
  return {
    socket,
    messages,
    send: (message: unknown) => socket.send(typeof message === 'string' ? message : JSON.stringify(message)),
    of: (id: string) => messages.filter((m) => m.id === id),
    done: (id: string) =>
      until(`${id} is done`, () => messages.some((m) => m.id === id && m.type === 'done')),
  };
}

const textOf = (messages: Json[]) =>
  messages
    .filter((m) => m.type === 'chunk')
    .map((m) => m.data.choices[0]?.delta?.content ?? m.data.choices[0]?.text ?? '')
    .join('');

describe('the WebSocket', () => {
  it('answers many requests at once, each under its id, as the event stream does', async () => {
    fixture = await serve(babbles);
    const client = await connect();
    const body = (i: number) => ({ messages: user(`${i}`), max_tokens: 10 + i, temperature: 0 });
    for (let i = 0; i < 20; i++) client.send({ type: 'chat.completions', id: `r${i}`, body: body(i) });
    client.send({ type: 'completions', id: 'c', body: { prompt: 'abc', max_tokens: 5, temperature: 0 } });
    for (let i = 0; i < 20; i++) await client.done(`r${i}`);
    await client.done('c');
    for (let i = 0; i < 20; i++) {
      const whole = await fixture.post('/v1/chat/completions', body(i));
      expect(textOf(client.of(`r${i}`))).toBe(whole.json.choices[0].message.content);
      expect(client.of(`r${i}`).filter((m) => m.data?.choices[0]?.delta.role)).toHaveLength(1);
      expect(client.of(`r${i}`).at(-1)).toEqual({ id: `r${i}`, type: 'done', cancelled: false });
    }
    expect(textOf(client.of('c'))).toHaveLength(5);
    client.socket.terminate();
  });

  it('gives the whole answer where the body says so', async () => {
    fixture = await serve(says('whole'));
    const client = await connect();
    client.send({ type: 'chat.completions', id: 'a', body: { messages: user('x'), stream: false } });
    await client.done('a');
    expect(client.of('a')[0]).toMatchObject({ type: 'response', data: { object: 'chat.completion' } });
    client.socket.terminate();
  });

  it('cancels one request and leaves the others', async () => {
    fixture = await serve(babbles);
    fixture.runner.stepMs = 2;
    const client = await connect();
    client.send({ type: 'chat.completions', id: 'long', body: { messages: user('a') } });
    client.send({ type: 'chat.completions', id: 'short', body: { messages: user('b'), max_tokens: 30 } });
    await until('it speaks', () => client.of('long').length > 3);
    client.send({ type: 'cancel', id: 'long' });
    client.send({ type: 'cancel', id: 'unknown' });
    await client.done('long');
    await client.done('short');
    expect(client.of('long').at(-1)).toEqual({ id: 'long', type: 'done', cancelled: true });
    expect(client.of('long').some((m) => m.type === 'error')).toBe(false);
    expect(textOf(client.of('short'))).toHaveLength(30);
    await until('blocks are free', () => fixture.engine.stats().usedBlocks === 0);
    client.socket.terminate();
  });

  it('answers bad messages with errors and lives on', async () => {
    fixture = await serve(says('ok'), { server: { maxRequestsPerSocket: 2 } });
    const client = await connect();
    const bad: [unknown, string | null, string][] = [
      ['{', null, 'invalid_json'],
      ['[]', null, 'invalid_value'],
      [{ type: 'dance', id: 'a' }, 'a', 'invalid_value'],
      [{ type: 'chat.completions' }, null, 'invalid_value'],
      [{ type: 'chat.completions', id: 5 }, null, 'invalid_value'],
      [{ type: 'chat.completions', id: 'a' }, 'a', 'invalid_value'],
      [{ type: 'chat.completions', id: 'a', body: { messages: user('x'), n: 0 } }, 'a', 'invalid_value'],
      [
        { type: 'chat.completions', id: 'a', body: { messages: user('x'), model: 'no' } },
        'a',
        'model_not_found',
      ],
    ];
    for (const [message, id, code] of bad) {
      const before = client.messages.length;
      client.send(message);
      await until(`an answer to ${JSON.stringify(message)}`, () => client.messages.length > before);
      expect(client.messages[before]).toMatchObject({ id, type: 'error', error: { code } });
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    client.socket.send(Buffer.from([1, 2]), { binary: true });
    await until('binary is refused', () => client.messages.at(-1).error?.message.includes('binary'));
    client.send({ type: 'chat.completions', id: 'fine', body: { messages: user('x') } });
    await client.done('fine');
    expect(textOf(client.of('fine'))).toBe('ok');
    client.socket.terminate();
  });

  it('refuses an id in use and more requests than a socket may have', async () => {
    fixture = await serve(babbles, { server: { maxRequestsPerSocket: 2 } });
    fixture.runner.stepMs = 2;
    const client = await connect();
    client.send({ type: 'chat.completions', id: 'a', body: { messages: user('a'), max_tokens: 50 } });
    client.send({ type: 'chat.completions', id: 'a', body: { messages: user('b') } });
    client.send({ type: 'chat.completions', id: 'b', body: { messages: user('c'), max_tokens: 50 } });
    client.send({ type: 'chat.completions', id: 'c', body: { messages: user('d') } });
    await until('both are refused', () => client.messages.filter((m) => m.type === 'error').length === 2);
    expect(client.of('c')[0].error.code).toBe('rate_limit_exceeded');
    await client.done('a');
    await client.done('b');
    expect(textOf(client.of('a'))).toHaveLength(50);
    client.socket.terminate();
  });

  it('frees everything when the socket goes away', async () => {
    fixture = await serve(babbles);
    fixture.runner.stepMs = 2;
    const client = await connect();
    for (let i = 0; i < 12; i++)
      client.send({ type: 'chat.completions', id: `${i}`, body: { messages: user('a') } });
    await until('they run', () => fixture.engine.stats().running === 8);
    client.socket.terminate();
    await until('all is free', () => {
      const { running, waiting, usedBlocks } = fixture.engine.stats();
      return running + waiting + usedBlocks === 0;
    });
    expect(fixture.service.lifecycle.active).toBe(0);
    fixture.engine.check();
  });

  it('takes the key as bearer or as a subprotocol', async () => {
    fixture = await serve(says('ok'), { server: { apiKeys: ['secret'] } });
    await expect(connect()).rejects.toThrow('401');
    await expect(connect({ 'sec-websocket-protocol': 'filigree, filigree-key.wrong' })).rejects.toThrow(
      '401',
    );
    const cases: Record<string, string>[] = [
      { authorization: 'Bearer secret' },
      { 'sec-websocket-protocol': 'filigree, filigree-key.secret' },
    ];
    for (const headers of cases) {
      const client = await connect(headers);
      client.send({ type: 'chat.completions', id: 'a', body: { messages: user('x') } });
      await client.done('a');
      client.socket.terminate();
    }
  });

  it('says so to those who come without upgrading', async () => {
    fixture = await serve(says('ok'));
    const { statusCode, body } = await fixture.app.inject({ url: '/v1/stream' });
    expect([statusCode, JSON.parse(body).error.code]).toEqual([400, 'invalid_value']);
  });
});
