import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import Anthropic from '@anthropic-ai/sdk';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import { afterEach, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import {
  babbles,
  byteId,
  type Fixture,
  type Json,
  says,
  serve,
  until,
  user,
} from '../unit/server/fixture.js';

let fixture: Fixture;
let port: number;
let url: string;

async function listen(...args: Parameters<typeof serve>): Promise<void> {
  fixture = await serve(...args);
  await fixture.app.listen({ host: '127.0.0.1', port: 0 });
  port = (fixture.app.server.address() as { port: number }).port;
  url = `http://127.0.0.1:${port}`;
}

afterEach(async () => {
  fixture.app.server.closeAllConnections();
  await fixture.close();
});

const idle = () => {
  const { running, waiting, usedBlocks } = fixture.engine.stats();
  return running + waiting + usedBlocks + fixture.service.lifecycle.active === 0;
};

describe("OpenAI's own client for Node", () => {
  const client = (apiKey = 'any') => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });

  it('chats, streams, completes, lists models', async () => {
    await listen(says('Hello, wörld 🌍!'));
    const openai = client();
    const chat = await openai.chat.completions.create({
      model: 'test-model',
      messages: [{ role: 'user', content: 'Hi' }],
      logprobs: true,
      top_logprobs: 1,
    });
    expect(chat.choices[0]?.message.content).toBe('Hello, wörld 🌍!');
    expect(chat.choices[0]?.logprobs?.content?.length).toBe(chat.usage?.completion_tokens);

    let text = '';
    let usage: unknown = null;
    const stream = await openai.chat.completions.create({
      model: 'test-model',
      messages: [{ role: 'user', content: 'Hi' }],
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? '';
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe('Hello, wörld 🌍!');
    expect(usage).toMatchObject({ completion_tokens: 20 });

    const helper = openai.chat.completions.stream({
      model: 'test-model',
      messages: [{ role: 'user', content: 'Hi' }],
    });
    expect(await helper.finalContent()).toBe('Hello, wörld 🌍!');

    const completion = await openai.completions.create({ model: 'test-model', prompt: 'a', max_tokens: 5 });
    expect(completion.choices[0]?.text).toBe('Hello');
    const models = await openai.models.list();
    expect(models.data.map((m) => m.id)).toContain('test-model');
    expect((await openai.models.retrieve('test-model')).id).toBe('test-model');
  });

  it('sees our refusals as its own error classes', async () => {
    await listen(says('x'), { server: { apiKeys: ['good'] } });
    const messages = [{ role: 'user' as const, content: 'Hi' }];
    await expect(
      client('bad').chat.completions.create({ model: 'test-model', messages }),
    ).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
    const openai = client('good');
    await expect(openai.chat.completions.create({ model: 'no', messages })).rejects.toBeInstanceOf(
      OpenAI.NotFoundError,
    );
    await expect(
      openai.chat.completions.create({ model: 'test-model', messages, temperature: 9 }),
    ).rejects.toMatchObject({ status: 400, param: 'temperature', code: 'invalid_value' });
  });

  it('raises what fails in the middle of a stream', async () => {
    await listen((_prompt, generated) => (generated === 3 ? 'nan' : byteId(97)));
    const stream = await client().chat.completions.create({
      model: 'test-model',
      messages: [{ role: 'user', content: 'Hi' }],
      stream: true,
    });
    let text = '';
    await expect(
      (async () => {
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
      })(),
    ).rejects.toThrow();
    expect(text).toBe('aaa');
  });
});

describe("OpenAI's client on the newer routes", () => {
  it('answers, streams and stores responses, and embeds', async () => {
    await listen(says('Hello, wörld 🌍!'));
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
    const response = await openai.responses.create({ model: 'test-model', input: 'Hi' });
    expect(response.output_text).toBe('Hello, wörld 🌍!');
    expect((await openai.responses.retrieve(response.id)).output_text).toBe(response.output_text);
    const stream = openai.responses.stream({
      model: 'test-model',
      input: 'More',
      previous_response_id: response.id,
    });
    let text = '';
    stream.on('response.output_text.delta', ({ delta }) => {
      text += delta;
    });
    expect((await stream.finalResponse()).output_text).toBe('Hello, wörld 🌍!');
    expect(text).toBe('Hello, wörld 🌍!');
    await openai.responses.delete(response.id);
    await expect(openai.responses.retrieve(response.id)).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    // The client asks for base64 and decodes it.
    const { data } = await openai.embeddings.create({ model: 'test-model', input: ['ab', 'c'] });
    expect(data.map((d) => Math.hypot(...d.embedding))).toEqual([expect.closeTo(1), expect.closeTo(1)]);
  });
});

describe("Anthropic's own client for Node", () => {
  it('answers, streams, counts, and sees our refusals as its own error classes', async () => {
    await listen(says('Hello, wörld 🌍!'), { server: { apiKeys: ['good'] } });
    const client = (apiKey: string) => new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
    const anthropic = client('good');
    const body = {
      model: 'test-model',
      max_tokens: 50,
      messages: [{ role: 'user' as const, content: 'Hi' }],
    };
    const message = await anthropic.messages.create(body);
    expect(message.content).toMatchObject([{ type: 'text', text: 'Hello, wörld 🌍!' }]);
    const stream = anthropic.messages.stream(body);
    expect(await stream.finalText()).toBe('Hello, wörld 🌍!');
    expect((await stream.finalMessage()).usage.output_tokens).toBe(message.usage.output_tokens);
    const { model, messages } = body;
    const { input_tokens } = await anthropic.messages.countTokens({ model, messages });
    expect(input_tokens).toBe(message.usage.input_tokens);
    await expect(client('bad').messages.create(body)).rejects.toBeInstanceOf(Anthropic.AuthenticationError);
    await expect(anthropic.messages.create({ ...body, model: 'none' })).rejects.toBeInstanceOf(
      Anthropic.NotFoundError,
    );
  });
});

describe('the Vercel AI SDK', () => {
  it('generates and streams', async () => {
    await listen(says('Hello, wörld 🌍!'));
    const provider = createOpenAICompatible({ name: 'filigree', baseURL: `${url}/v1`, includeUsage: true });
    const model = provider('test-model');
    const whole = await generateText({ model, prompt: 'Hi', temperature: 0 });
    expect(whole.text).toBe('Hello, wörld 🌍!');
    expect([whole.finishReason, whole.usage.outputTokens]).toEqual(['stop', 20]);
    const stream = streamText({ model, prompt: 'Hi', maxOutputTokens: 5 });
    let text = '';
    for await (const part of stream.textStream) text += part;
    expect(text).toBe('Hello');
    expect([await stream.finishReason, (await stream.usage).outputTokens]).toEqual(['length', 5]);
  });
});

describe('a client that leaves', () => {
  /** Sends a request and hangs up when told. */
  function call(body: object) {
    const req = request(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
    });
    req.on('error', () => {});
    req.end(JSON.stringify(body));
    return req;
  }

  it('frees its blocks within a step or so: streaming, waiting for the whole, and in the queue', async () => {
    await listen(babbles, { engine: { maxNumSeqs: 2 }, runner: { maxModelLen: 4096 } });
    fixture.runner.stepMs = 2;
    const calls = [true, false, true, false].map((stream) => call({ messages: user('a'), stream }));
    await until(
      'two run and two wait',
      () => fixture.engine.stats().running === 2 && fixture.engine.stats().waiting === 2,
    );
    for (const req of calls) req.destroy();
    await until(
      'nobody is left',
      () => fixture.engine.stats().running + fixture.engine.stats().waiting === 0,
    );
    const { steps } = fixture.runner;
    await until('all is free', idle);
    expect(fixture.runner.steps - steps).toBeLessThan(3);
    fixture.engine.check();
  });

  it('opens and drops a thousand sockets without a trace', async () => {
    await listen(babbles);
    for (let round = 0; round < 20; round++) {
      const sockets = await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`);
          await once(socket, 'open');
          if (i % 5 === 0)
            socket.send(JSON.stringify({ type: 'chat.completions', id: 'a', body: { messages: user('a') } }));
          return socket;
        }),
      );
      for (const socket of sockets) socket.terminate();
    }
    await until('all is free', idle, 20_000);
    expect(fixture.app.websocketServer.clients.size).toBe(0);
    fixture.engine.check();
  });
});

describe('one socket', () => {
  it('carries a hundred requests', async () => {
    await listen(babbles, { engine: { queueLimit: 256 } });
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, ['filigree']);
    const texts = new Map<string, string>();
    let done = 0;
    socket.on('message', (data) => {
      const message: Json = JSON.parse(data.toString());
      if (message.type === 'done') done++;
      if (message.type === 'error') throw new Error(JSON.stringify(message));
      const piece = message.data?.choices[0]?.delta.content ?? '';
      texts.set(message.id, (texts.get(message.id) ?? '') + piece);
    });
    await once(socket, 'open');
    expect(socket.protocol).toBe('filigree');
    for (let i = 0; i < 100; i++)
      socket.send(
        JSON.stringify({
          type: 'chat.completions',
          id: `${i}`,
          body: { messages: user(`${i}`), max_tokens: 20, temperature: 0 },
        }),
      );
    await until('all are done', () => done === 100, 20_000);
    expect([...texts.values()].every((text) => text.length === 20)).toBe(true);
    socket.terminate();
  });
});

describe('malformed HTTP', () => {
  it('gets the shape too', async () => {
    await listen(says('x'));
    const socket = connect(port, '127.0.0.1');
    socket.end('NONSENSE\r\n\r\n');
    let text = '';
    socket.setEncoding('utf8');
    for await (const part of socket) text += part;
    expect(text).toMatch(/^HTTP\/1.1 400/);
    expect(JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)).error.type).toBe('invalid_request_error');
  });
});
