import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type PullOptions, pull } from '../../../src/model/hub/pull.js';
import { resolveModel } from '../../../src/model/resolve.js';

const ID = 'owner/model';
const REVISION = 'a'.repeat(40);
const bytes = (n: number, seed: number) =>
  Buffer.from(Uint8Array.from({ length: n }, (_, i) => (i * 31 + seed * 7 + (i >> 8)) & 255));

type Handler = (request: IncomingMessage, response: ServerResponse, content: Buffer, attempt: number) => void;

/** Sends a file as a good server does, ranges included. */
const serves: Handler = (request, response, content) => {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  if (from > 0) response.setHeader('content-range', `bytes ${from}-${content.length - 1}/${content.length}`);
  response.statusCode = from > 0 ? 206 : 200;
  response.end(content.subarray(from));
};

let folder: string;
let files: Record<string, Buffer>;
let handlers: Record<string, Handler>;
let listing: (entry: object[]) => unknown;
let asked: { path: string; range: string | undefined }[];
let hub: ReturnType<typeof createServer>;
let base: string;
const attempts = new Map<string, number>();
const before = process.env.FILIGREE_CACHE;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'filigree-pull-'));
  process.env.FILIGREE_CACHE = folder;
  files = {
    'config.json': Buffer.from('{"model_type":"llama"}'),
    'tokenizer.json': bytes(5000, 1),
    'model-00001-of-00002.safetensors': bytes(300_000, 2),
    'model-00002-of-00002.safetensors': bytes(200_000, 3),
    'notes/train.log': bytes(10, 4),
    'pytorch_model.bin': bytes(10, 5),
  };
  handlers = {};
  listing = (entries) => entries;
  asked = [];
  attempts.clear();
  hub = createServer((request, response) => {
    const path = decodeURIComponent((request.url ?? '').split('?')[0] as string);
    if (path === `/api/models/${ID}/revision/main`) return response.end(JSON.stringify({ sha: REVISION }));
    if (path === `/api/models/${ID}/tree/${REVISION}`) {
      const entries = Object.entries(files).map(([name, content]) => ({
        type: 'file',
        path: name,
        size: content.length,
        oid: createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex'),
        ...(name.endsWith('.safetensors') && {
          lfs: { oid: createHash('sha256').update(content).digest('hex'), size: content.length },
        }),
      }));
      return response.end(JSON.stringify(listing(entries)));
    }
    const name = path.replace(`/${ID}/resolve/${REVISION}/`, '');
    const content = files[name];
    if (content === undefined) {
      response.statusCode = 404;
      return response.end();
    }
    asked.push({ path: name, range: request.headers.range });
    attempts.set(name, (attempts.get(name) ?? 0) + 1);
    (handlers[name] ?? serves)(request, response, content, attempts.get(name) as number);
  });
  await new Promise<void>((resolve) => hub.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(hub.address() as { port: number }).port}`;
});
afterEach(async () => {
  hub.closeAllConnections();
  await new Promise((resolve) => hub.close(resolve));
  rmSync(folder, { recursive: true });
  if (before === undefined) delete process.env.FILIGREE_CACHE;
  else process.env.FILIGREE_CACHE = before;
});

const run = (options: PullOptions = {}) =>
  pull(ID, { from: base, attempts: 3, stallMs: 300, backoffMs: 5, ...options });
const SHARD = 'model-00001-of-00002.safetensors';
const at = (name: string) => join(folder, 'models', 'owner--model', name);
const expectWhole = () => {
  for (const name of ['config.json', 'tokenizer.json', SHARD, 'model-00002-of-00002.safetensors'])
    expect(readFileSync(at(name)).equals(files[name] as Buffer), name).toBe(true);
  expect(readdirSync(at('.')).filter((name) => name.endsWith('.part'))).toEqual([]);
};

describe('pull', () => {
  it('brings what a model needs and no more, tells its progress, and makes the id a MODEL', async () => {
    const seen: number[] = [];
    const pulled = await run({ onProgress: (done, total) => seen.push(done / total) });
    expectWhole();
    expect(existsSync(at('pytorch_model.bin'))).toBe(false);
    expect(pulled).toMatchObject({ bytes: 505_022, downloaded: 505_022, revision: REVISION, offline: false });
    expect([seen[0], seen.at(-1)]).toEqual([0, 1]);
    expect([...seen].sort((a, b) => a - b)).toEqual(seen);
    expect(asked.at(-1)?.path).toBe('config.json');
    expect(await resolveModel(ID)).toBe(pulled.path);
    asked = [];
    expect((await run()).downloaded).toBe(0);
    expect(asked).toEqual([]);
  });

  it('goes on where a connection dropped', async () => {
    handlers[SHARD] = (request, response, content, attempt) => {
      if (attempt > 3) return serves(request, response, content, attempt);
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, {
        'content-length': content.length - from,
        ...(from > 0 && { 'content-range': `bytes ${from}-${content.length - 1}/${content.length}` }),
      });
      response.write(content.subarray(from, from + 50_000), () => setTimeout(() => response.destroy(), 20));
    };
    await run();
    expectWhole();
    const ranges = asked.filter(({ path }) => path === SHARD).map(({ range }) => range);
    expect(ranges[0]).toBeUndefined();
    expect(ranges.slice(1).every((range) => /^bytes=[1-9]\d*-$/.test(range as string))).toBe(true);
  });

  it('goes on in a later run, and starts over where the server knows no ranges', async () => {
    handlers[SHARD] = (_request, response, content, attempt) => {
      if (attempt > 1) return response.destroy();
      response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(0, 100_000), () => setTimeout(() => response.destroy(), 20));
    };
    await expect(run()).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.stringContaining('run the command again'),
    });
    expect(existsSync(at('config.json'))).toBe(false);
    await expect(resolveModel(ID)).rejects.toMatchObject({ code: 'model_missing' });
    handlers[SHARD] = (_request, response, content) => response.end(content);
    asked = [];
    await run();
    expectWhole();
    expect(asked.find(({ path }) => path === SHARD)?.range).toMatch(/^bytes=[1-9]/);
    expect(asked.some(({ path }) => path === 'tokenizer.json')).toBe(false);
  });

  it('fetches corrupt bytes once more, and refuses them then', async () => {
    const corrupt = (content: Buffer) => Buffer.from(content.map((byte, i) => (i === 77 ? byte ^ 1 : byte)));
    handlers[SHARD] = (request, response, content, attempt) =>
      serves(request, response, attempt === 1 ? corrupt(content) : content, attempt);
    await run();
    expectWhole();
    files['tokenizer.json'] = bytes(6000, 9);
    handlers['tokenizer.json'] = (request, response, content, attempt) =>
      serves(request, response, corrupt(content), attempt);
    await expect(run()).rejects.toThrow(/tokenizer\.json.*hash/);
    expect(readdirSync(at('.')).filter((name) => name.endsWith('.part'))).toEqual([]);
    // The old file is untouched.
    expect(readFileSync(at('tokenizer.json'))).toHaveLength(5000);
  });

  it.each<[string, Handler]>([
    ['sends more than it lists', (_q, response, content) => response.end(Buffer.concat([content, content]))],
    ['sends less and says that it is all', (_q, response, content) => response.end(content.subarray(0, 0))],
    [
      'answers another range',
      (request, response, content) => {
        if (!request.headers.range) {
          response.writeHead(200, { 'content-length': content.length });
          return void response.write(content.subarray(0, 1000), () =>
            setTimeout(() => response.destroy(), 20),
          );
        }
        response.writeHead(206, { 'content-range': `bytes 5-${content.length - 1}/${content.length}` });
        response.end(content.subarray(5));
      },
    ],
    ['answers 500', (_q, response) => response.writeHead(500).end()],
    ['is silent', () => {}],
    ['loops', (request, response) => response.writeHead(302, { location: request.url as string }).end()],
  ])('gives up on a server that %s, and leaves no model', async (_what, handler) => {
    handlers[SHARD] = handler;
    await expect(run({ stallMs: 100 })).rejects.toMatchObject({ code: 'download_failed' });
    expect(existsSync(at('config.json'))).toBe(false);
    expect(existsSync(at(SHARD))).toBe(false);
  });

  it.each(['../../evil', '/etc/evil', 'a/../../b', 'a\\..\\b', ''])(
    'refuses a listing with the path %j',
    async (path) => {
      listing = (entries) => [...entries, { type: 'file', path, size: 1, oid: 'b'.repeat(40) }];
      await expect(run()).rejects.toMatchObject({ code: 'download_failed' });
      expect(asked).toEqual([]);
    },
  );

  it.each([[{ size: -1 }], [{ size: 'x' }], [{ oid: 'zz' }]])('refuses a listing with %j', async (lie) => {
    listing = (entries) => entries.map((entry) => ({ ...entry, ...lie, lfs: undefined }));
    await expect(run()).rejects.toMatchObject({ code: 'download_failed' });
  });

  it('serves from the cache without a network, and says so when there is nothing', async () => {
    await run();
    const dead = { from: 'http://127.0.0.1:9', attempts: 1 };
    expect(await pull(ID, dead)).toMatchObject({ offline: true, downloaded: 0, bytes: 505_022 });
    await expect(pull('owner/other', dead)).rejects.toThrow(/cannot be reached.*--from/s);
  });

  it('finds damage under --verify', async () => {
    await run();
    const damaged = Buffer.from(files[SHARD] as Buffer);
    damaged[5] = (damaged[5] as number) ^ 255;
    writeFileSync(at(SHARD), damaged);
    expect((await run({ verify: true })).downloaded).toBe(damaged.length);
    expectWhole();
  });

  it('takes one GGUF file where it is named, and asks where there are several', async () => {
    files = { 'a-q4.gguf': bytes(100, 1), 'a-q8.gguf': bytes(200, 2) };
    await expect(run()).rejects.toThrow(/--file.*a-q4\.gguf, a-q8\.gguf/);
    const pulled = await run({ file: 'a-q8.gguf' });
    expect(pulled.path).toBe(at('a-q8.gguf'));
    await expect(run({ file: 'none' })).rejects.toThrow(/no file none/);
  });

  it.each(['model', '../x', 'a/b/c', './..', 'a/..'])('refuses %j as an id', async (id) => {
    await expect(pull(id, { from: base })).rejects.toMatchObject({ code: 'usage' });
  });
});
