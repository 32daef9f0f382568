import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../config.js';
import { FiligreeError } from '../errors.js';

/**
 * Programs that a model wrote, run as what they are: nobody's. Each runs in a child of its own (scripts/sandbox.py) without
 * network, new processes or files beyond an empty folder, under limits of time and memory, with an empty environment.
 */
export interface Verdict {
  /** The program ran to its end. */
  passed: boolean;
  /** The last line it wrote on stderr, or why it was stopped. */
  reason: string;
}

export interface SandboxLimits {
  cpuSeconds: number;
  /** Longer than the CPU's: the machine may be busy. */
  wallSeconds: number;
  memoryBytes: number;
}

const DEFAULT_LIMITS: SandboxLimits = { cpuSeconds: 5, wallSeconds: 30, memoryBytes: 1 << 30 };
const SCRIPT = join(PACKAGE_ROOT, 'scripts', 'sandbox.py');
/** Exit status of the script where it could not confine itself. */
const NOT_CONFINED = 3;

/**
 * Runs a Python program.
 * @throws FiligreeError `unsupported_value` where it cannot be confined: not Linux, no python3, no seccomp, no script
 */
export async function runSandboxed(
  program: string,
  limits: SandboxLimits = DEFAULT_LIMITS,
  script: string = SCRIPT,
): Promise<Verdict> {
  if (process.platform !== 'linux')
    throw refused('it takes Linux (seccomp) to keep a program from the network');
  // Without it Python would end early for every program, and all would count as failed.
  if (!existsSync(script)) throw refused(`this installation has no ${script}`);
  const folder = await mkdtemp(join(tmpdir(), 'filigree-eval-'));
  try {
    // The child of a root process goes on as nobody.
    await chmod(folder, 0o777);
    return await runIn(folder, program, limits, script);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function runIn(folder: string, program: string, limits: SandboxLimits, script: string): Promise<Verdict> {
  const nonce = randomBytes(16).toString('hex');
  const args = ['-I', '-S', script, folder, String(limits.cpuSeconds), String(limits.memoryBytes)];
  const child = spawn('python3', args, {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '' },
    detached: true,
  });
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, limits.wallSeconds * 1000);
  return new Promise((resolve, reject) => {
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data: Buffer) => {
      if (stdout.length < 1024) stdout += data;
    });
    child.stderr.on('data', (data: Buffer) => {
      stderr = (stderr + data).slice(-4096);
    });
    child.stdin.on('error', () => {});
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(refused(`python3 cannot be started (${error.message})`));
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (code === NOT_CONFINED) return reject(refused(stderr.trim()));
      const passed = code === 0 && stdout === nonce;
      const last = stderr.trim().split('\n').at(-1) ?? '';
      const stopped = timedOut || signal === 'SIGXCPU' || signal === 'SIGKILL' ? 'out of time' : last;
      resolve({ passed, reason: passed ? '' : stopped || `ended early (${signal ?? code})` });
    });
    child.stdin.end(`${nonce}\n${program}`);
  });
}

function refused(why: string): FiligreeError {
  return new FiligreeError('usage', `--allow-code-execution: programs cannot be run safely here: ${why}`);
}
