import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';
import { MODEL, missing, Program } from './processes.js';
import { has, PYTHON, Router } from './router.js';

const without =
  missing ?? (PYTHON === undefined ? 'skipped, FILIGREE_TEST_PYTHON names no Python with openai' : null);

describe.skipIf(without)(`Python clients and routers${without ? ` (${without})` : ''}`, () => {
  const servers: Program[] = [];
  const urls: string[] = [];
  beforeAll(async () => {
    for (let i = 0; i < 2; i++) {
      const flags = [
        '--weights',
        'bf16',
        '--kv-memory',
        '256MiB',
        '--api-key',
        'key',
        '--served-model-name',
        'smol',
      ];
      const server = new Program(['serve', MODEL as string, '--port', '0', ...flags]);
      servers.push(server);
      urls.push((await server.ready()).url);
    }
  });
  afterAll(async () => {
    for (const server of servers) server.kill();
    for (const server of servers) expect((await server.end()).code).toBe(0);
  });

  const client = (url: string) =>
    promisify(execFile)(PYTHON as string, [
      join(PACKAGE_ROOT, 'test/e2e/openai_client.py'),
      url,
      'key',
      'smol',
    ]);

  it("serves OpenAI's own client", async () => {
    expect((await client(urls[0] as string)).stdout).toBe('ok\n');
  });

  it.skipIf(!has('anthropic') || !has('langchain_openai'))(
    "serves OpenAI's responses and embeddings, Anthropic's client and LangChain",
    async () => {
      const script = join(PACKAGE_ROOT, 'test/e2e/more_clients.py');
      const { stdout } = await promisify(execFile)(PYTHON as string, [
        script,
        urls[0] as string,
        'key',
        'smol',
      ]);
      expect(stdout).toBe('ok\n');
    },
  );

  for (const [name, module] of [
    ['vllm-router', 'vllm_router.launch_router'],
    ['sglang-router', 'sglang_router.launch_router'],
  ] as const) {
    it.skipIf(!has(module))(`stands behind the real ${name}, two servers, cache-aware`, async () => {
      const router = await Router.start(module, urls, ['--policy', 'cache_aware'], 'key');
      try {
        expect((await client(router.url)).stdout).toBe('ok\n');
      } finally {
        await router.stop();
      }
    });
  }
});
