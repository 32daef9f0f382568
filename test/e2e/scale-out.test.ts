import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { type LoadReport, runLoad, syntheticPrompts } from '../../bench/serve-load.js';
import { PACKAGE_ROOT } from '../../src/config.js';
import { MODEL, missing, Program } from './processes.js';
import { freePort, has, PYTHON, Router } from './router.js';

/** Several real servers behind real routers, as docs/scale-out.md describes them. Seconds, but on a busy machine minutes. */
const PATIENCE = 240_000;

const SMALL = ['--threads', '1', '--kv-memory', '64MiB', '--log-level', 'warn'];
const running: { program: Program; router?: Router }[] = [];

async function server(flags: readonly string[] = [], port = 0): Promise<{ program: Program; url: string }> {
  const program = new Program(['serve', MODEL as string, '--port', String(port), ...SMALL, ...flags]);
  running.push({ program });
  return { program, url: (await program.ready()).url };
}

async function router(...args: Parameters<typeof Router.start>): Promise<Router> {
  const started = await Router.start(...args);
  running.push({ program: running[0]?.program as Program, router: started });
  return started;
}

afterEach(async () => {
  for (const { router } of running) await router?.stop();
  for (const { program } of running) program.kill('SIGKILL');
  for (const { program } of running.splice(0)) await program.end();
});

/** One number of a server's metrics, added up over its labels. */
async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const values = [...text.matchAll(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'gm'))];
  return values.reduce((sum, [, value]) => sum + Number(value), 0);
}

const load = async (url: string) =>
  ((await (await fetch(`${url}/load`)).json()) as { server_load: number }).server_load;

const errorsOf = (report: LoadReport) => Object.values(report.errors).reduce((sum, count) => sum + count, 0);

const withoutRouter =
  missing ?? (has('vllm_router') ? null : 'skipped, FILIGREE_TEST_PYTHON names no Python with vllm-router');
const withoutZmq =
  missing ??
  (has('zmq, msgspec') ? null : 'skipped, FILIGREE_TEST_PYTHON names no Python with pyzmq and msgspec');

const events = async () => [
  '--kv-events-config',
  JSON.stringify({
    enable_kv_cache_events: true,
    endpoint: `tcp://127.0.0.1:${await freePort()}`,
    replay_endpoint: `tcp://127.0.0.1:${await freePort()}`,
    topic: 'kv',
  }),
];

describe.skipIf(withoutZmq)(
  `KV events of a real server${withoutZmq ? ` (${withoutZmq})` : ''}`,
  { timeout: PATIENCE },
  () => {
    it('tell a subscriber with vLLM’s own structs exactly what the server will find in its cache', async () => {
      // 22 blocks: the prompts evict one another.
      const { url } = await server(['--max-model-len', '256', '--kv-memory', '8MiB', ...(await events())]);
      const script = join(PACKAGE_ROOT, 'test/e2e/kv_events.py');
      const { stdout } = await promisify(execFile)(PYTHON as string, [script, url]);
      expect(stdout).toMatch(/^ok \d+ batches, \d+ tokens found, \d+ blocks removed\n$/);
    });
  },
);

describe.skipIf(withoutRouter)(
  `Servers behind vllm-router${withoutRouter ? ` (${withoutRouter})` : ''}`,
  { timeout: PATIENCE },
  () => {
    /** Notices within a second or two that a server is gone, or back. */
    const WATCHFUL = [
      ...['--health-check-endpoint', '/ready', '--health-check-interval-secs', '1'],
      ...['--health-failure-threshold', '1', '--health-success-threshold', '1'],
    ];

    const request = (url: string, prompts: string[], concurrency: number, maxTokens: number) =>
      runLoad({
        url,
        model: 'smol',
        concurrency,
        requests: prompts.length,
        maxTokens,
        prompts,
        goodTtft: 1,
        goodItl: 1,
        timeoutSeconds: 60,
      });

    it('kv_aware sends a prompt where its prefix lies, whichever server that is', async () => {
      const named = ['--served-model-name', 'smol'];
      const servers = [
        await server([...named, ...(await events())]),
        await server([...named, ...(await events())]),
      ];
      const front = await router(
        'vllm_router.launch_router',
        servers.map(({ url }) => url),
        ['--policy', 'kv_aware'],
      );
      const [first, second] = syntheticPrompts(2, 150) as [string, string];
      const answered = () => Promise.all(servers.map(({ url }) => metric(url, 'vllm:request_success_total')));
      // Not through the router: only the servers' events can tell it of these.
      await request(servers[0]?.url as string, [first], 1, 1);
      await request(servers[1]?.url as string, [second], 1, 1);
      await new Promise((resolve) => setTimeout(resolve, 500));
      const before = await answered();
      const hits = await metric(servers[1]?.url as string, 'vllm:prefix_cache_hits_total');
      expect(
        (await request(front.url, [`${second} and`, `${second} or`, `${second} but`], 1, 2)).errors,
      ).toEqual({});
      expect(await answered()).toEqual([before[0], (before[1] as number) + 3]);
      expect(
        (await metric(servers[1]?.url as string, 'vllm:prefix_cache_hits_total')) - hits,
      ).toBeGreaterThan(300);
      expect((await request(front.url, [`${first} and`, `${first} or`], 1, 2)).errors).toEqual({});
      expect(await answered()).toEqual([(before[0] as number) + 2, (before[1] as number) + 3]);
    });

    it('a server that is killed takes along its own running answers, and no others', async () => {
      const named = ['--served-model-name', 'smol'];
      const servers = [await server(named), await server(named)];
      const front = await router(
        'vllm_router.launch_router',
        servers.map(({ url }) => url),
        ['--policy', 'round_robin', ...WATCHFUL],
      );
      const answers = request(front.url, syntheticPrompts(8, 20), 8, 150);
      const [survivor, victim] = servers as [(typeof servers)[0], (typeof servers)[0]];
      let loads = [0, 0];
      while (loads[0]! + loads[1]! < 8) loads = await Promise.all([load(survivor.url), load(victim.url)]);
      victim.program.kill('SIGKILL');
      const meanwhile = await request(front.url, syntheticPrompts(12, 20), 4, 8);
      const report = await answers;
      expect(loads[1]).toBeGreaterThan(0);
      expect(errorsOf(report)).toBeLessThanOrEqual(loads[1] as number);
      expect(meanwhile.errors).toEqual({});
      expect(report.output_tokens).toBeGreaterThanOrEqual(150 * (loads[0] as number));
    });

    it('a rolling restart loses nothing', async () => {
      const named = ['--served-model-name', 'smol'];
      const ports = [await freePort(), await freePort()];
      const servers = [await server(named, ports[0]), await server(named, ports[1])];
      const front = await router(
        'vllm_router.launch_router',
        servers.map(({ url }) => url),
        ['--policy', 'round_robin', ...WATCHFUL],
      );
      let restarting = true;
      const reports: LoadReport[] = [];
      const clients = (async () => {
        while (restarting) reports.push(await request(front.url, syntheticPrompts(12, 20), 6, 24));
      })();
      for (const [i, old] of servers.entries()) {
        // Under load when its turn comes.
        while ((await load(old.url)) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
        old.program.kill('SIGTERM');
        expect((await old.program.end()).code).toBe(0);
        const replaced = await server(named, ports[i]);
        while ((await metric(replaced.url, 'vllm:request_success_total')) === 0)
          await new Promise((resolve) => setTimeout(resolve, 50));
      }
      restarting = false;
      await clients;
      expect(reports.map((report) => report.errors)).toEqual(reports.map(() => ({})));
      expect(reports.length).toBeGreaterThan(0);
    });
  },
);
