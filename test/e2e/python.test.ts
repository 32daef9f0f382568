import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';
import { MODEL, missing, Program } from './processes.js';

/** A Python that has `openai`, and for the routers `vllm-router` and `sglang-router`. */
const PYTHON = process.env.FILIGREE_TEST_PYTHON;

function has(module: string): boolean {
  if (PYTHON === undefined) return false;
  try {
    execFileSync(PYTHON, ['-c', `import ${module}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const without =
  missing ?? (PYTHON === undefined ? 'skipped, FILIGREE_TEST_PYTHON names no Python with openai' : null);

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

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
      const port = await freePort();
      const metrics = await freePort();
      const args = [
        '--worker-urls',
        ...urls,
        '--policy',
        'cache_aware',
        '--host',
        '127.0.0.1',
        '--port',
        String(port),
      ];
      const router: ChildProcess = spawn(
        PYTHON as string,
        ['-m', module, ...args, '--prometheus-port', String(metrics)],
        { stdio: 'ignore' },
      );
      try {
        const url = `http://127.0.0.1:${port}`;
        // Up is not enough: workers are found healthy a moment later.
        for (let i = 0; ; i++) {
          const response = await fetch(`${url}/v1/models`, {
            headers: { authorization: 'Bearer key' },
          }).catch(() => null);
          if (response?.ok) break;
          if (i > 200) throw new Error(`${name} did not come up`);
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        expect((await client(url)).stdout).toBe('ok\n');
      } finally {
        router.kill();
      }
    });
  }
});
