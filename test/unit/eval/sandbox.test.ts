import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runSandboxed } from '../../../src/eval/sandbox.js';

function absent(): string | null {
  if (process.platform !== 'linux') return 'skipped, not Linux';
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' });
    return null;
  } catch {
    return 'skipped, no python3';
  }
}

const why = absent();
describe.skipIf(why)(`programs that a model wrote${why ? ` (${why})` : ''}`, () => {
  it('pass when they run to their end, and only then', async () => {
    const program =
      'import math, json, collections, heapq\nfrom typing import List\nassert math.gcd(4, 6) == 2\n';
    expect(await runSandboxed(program)).toEqual({ passed: true, reason: '' });
    expect(await runSandboxed('assert 1 == 2, "no"')).toEqual({
      passed: false,
      reason: 'AssertionError: no',
    });
    for (const exit of ['import sys; sys.exit(0)', 'import os; os._exit(0)', 'this is no Python'])
      expect((await runSandboxed(exit)).passed, exit).toBe(false);
  });

  it('reach no network, start no process, signal nobody', async () => {
    const attempts = [
      'import socket; socket.socket()',
      'import os; os.fork()',
      'import subprocess; subprocess.run(["true"])',
      'import os; os.execv("/bin/true", ["true"])',
      'import os; os.kill(os.getppid(), 0)',
    ];
    for (const attempt of attempts) {
      const { passed, reason } = await runSandboxed(attempt);
      expect([attempt, passed, reason]).toEqual([
        attempt,
        false,
        expect.stringMatching(/Permission|not permitted/),
      ]);
    }
  });

  it('change no file but in their own folder', async () => {
    expect(
      (await runSandboxed('open("mine", "w").write("x"); assert open("mine").read() == "x"')).passed,
    ).toBe(true);
    const target = join(tmpdir(), `filigree-evil-${process.pid}`);
    const own = JSON.stringify(import.meta.filename);
    const before = readFileSync(import.meta.filename);
    for (const attempt of [
      `open(${JSON.stringify(target)}, "w")`,
      `open(${own}, "a").write("#")`,
      `import os; os.chmod(${own}, 0o777)`,
    ])
      expect((await runSandboxed(attempt)).reason, attempt).toMatch(/Permission|not permitted|Read-only/);
    expect(existsSync(target)).toBe(false);
    expect(readFileSync(import.meta.filename).equals(before)).toBe(true);
  });

  it('are stopped when they take too much time or memory, or stop themselves', async () => {
    const limits = { cpuSeconds: 1, wallSeconds: 20, memoryBytes: 1 << 28 };
    expect(await runSandboxed('while True: pass', limits)).toEqual({ passed: false, reason: 'out of time' });
    expect((await runSandboxed('x = "a" * (1 << 29)', limits)).reason).toContain('MemoryError');
    const sleeper = await runSandboxed('import time; time.sleep(60)', { ...limits, wallSeconds: 1 });
    expect(sleeper).toEqual({ passed: false, reason: 'out of time' });
    expect((await runSandboxed('open("big", "w").write("x" * (1 << 22))', limits)).passed).toBe(false);
  });

  it('are not judged where the sandbox or python3 is missing: an error, not a failed program', async () => {
    const missing = join(tmpdir(), `filigree-no-sandbox-${process.pid}.py`);
    await expect(runSandboxed('pass', undefined, missing)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining(`this installation has no ${missing}`),
    });
    const path = process.env.PATH;
    process.env.PATH = join(tmpdir(), 'filigree-no-such-folder');
    try {
      await expect(runSandboxed('pass')).rejects.toMatchObject({
        code: 'usage',
        message: expect.stringContaining('python3 cannot be started'),
      });
    } finally {
      process.env.PATH = path;
    }
  });
});
