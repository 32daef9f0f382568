import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';

/** A Python that has the clients, the routers and what they need. */
export const PYTHON = process.env.FILIGREE_TEST_PYTHON;

/** Whether it has a module. */
export function has(module: string): boolean {
  if (PYTHON === undefined) return false;
  try {
    execFileSync(PYTHON, ['-c', `import ${module}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** A real router in front of servers: its Python module's command line. */
export class Router {
  output = '';

  private constructor(
    readonly url: string,
    private readonly child: ChildProcess,
  ) {
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (data) => {
        this.output += data;
      });
  }

  /** Resolves when requests reach a server through it. */
  static async start(
    module: 'vllm_router.launch_router' | 'sglang_router.launch_router',
    workers: readonly string[],
    args: readonly string[],
    apiKey?: string,
  ): Promise<Router> {
    const port = await freePort();
    const own = [
      '--host',
      '127.0.0.1',
      '--port',
      String(port),
      '--prometheus-port',
      String(await freePort()),
    ];
    const command = ['-m', module, '--worker-urls', ...workers, ...args, ...own];
    const router = new Router(
      `http://127.0.0.1:${port}`,
      spawn(PYTHON as string, command, { stdio: 'pipe' }),
    );
    const headers: HeadersInit = apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` };
    // Up is not enough: workers are found healthy a moment later.
    for (let i = 0; ; i++) {
      const response = await fetch(`${router.url}/v1/models`, { headers }).catch(() => null);
      if (response?.ok) return router;
      if (i > 200 || router.child.exitCode !== null) {
        router.child.kill();
        throw new Error(`${module} did not come up: ${router.output}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'close');
    this.child.kill('SIGKILL');
    await ended;
  }
}
