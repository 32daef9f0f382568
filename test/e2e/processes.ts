import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../src/config.js';
import { cacheFolder, embeddedDefault } from '../../src/model/resolve.js';
import { DEVICE } from '../device.js';

/** Commands that take `--device`. */
const ON_GPU = DEVICE === 'cuda' ? ['serve', 'run', 'eval'] : [];

const MAIN = join(PACKAGE_ROOT, 'dist', 'src', 'main.js');

/** A real model that is there without a download: FILIGREE_TEST_MODEL, the embedded one, or the cached default. */
export const MODEL: string | null =
  [
    process.env.FILIGREE_TEST_MODEL,
    embeddedDefault(),
    join(cacheFolder(), 'models', 'SmolLM2-135M-Instruct.Q4_1.gguf'),
  ].find((path): path is string => typeof path === 'string' && existsSync(path)) ?? null;

const ADDON = process.env.FILIGREE_ADDON ?? join(PACKAGE_ROOT, 'build', 'Release', 'filigree.node');

/** Why the tests that run the real program cannot, or null. Shown in the name of the suite that is skipped. */
export const missingProgram: string | null = !existsSync(MAIN)
  ? 'skipped, not compiled: npm run build'
  : !existsSync(ADDON)
    ? 'skipped, no native addon: npm run build:native'
    : null;

/** The same for tests that need a real model too. */
export const missing: string | null =
  MODEL === null ? 'skipped, no model: run the program once, or set FILIGREE_TEST_MODEL' : missingProgram;

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** The program as users start it, its output collected. */
export class Program {
  stdout = '';
  stderr = '';
  readonly child: ChildProcess;
  private readonly ended: Promise<[number | null, NodeJS.Signals | null]>;

  constructor(args: string[], options: { input?: string; env?: Record<string, string>; main?: string } = {}) {
    const env = { ...process.env, ...options.env };
    const device = ON_GPU.includes(args[0] ?? '') ? ['--device', DEVICE, '--deterministic'] : [];
    this.child = spawn(process.execPath, [options.main ?? MAIN, ...args, ...device], { stdio: 'pipe', env });
    this.ended = once(this.child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
    this.child.stdout?.on('data', (data) => {
      this.stdout += data;
    });
    this.child.stderr?.on('data', (data) => {
      this.stderr += data;
    });
    this.child.stdin?.end(options.input ?? '');
  }

  async end(): Promise<Ended> {
    const [code, signal] = await this.ended;
    return { code, signal, stdout: this.stdout, stderr: this.stderr };
  }

  /** Waits for the ready line of `serve`. */
  async ready(): Promise<{ event: string; url: string; model: string; load_ms: number }> {
    for (;;) {
      const line = this.stdout.split('\n', 1)[0];
      if (this.stdout.includes('\n')) return JSON.parse(line as string);
      if (this.child.exitCode !== null || this.child.signalCode !== null)
        throw new Error(`it ended: ${this.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    this.child.kill(signal);
  }
}

export const program = (args: string[], input?: string): Promise<Ended> =>
  new Program(args, input === undefined ? {} : { input }).end();
