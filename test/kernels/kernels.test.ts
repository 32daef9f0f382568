import { execFile, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';

/**
 * The kernel test program, built and run: every variant this processor has against the scalar reference. It needs no
 * Node, so the same program runs under an emulator or on another machine:
 *   cmake -S . -B build/kernel-test -DFILIGREE_TESTS=ON && cmake --build build/kernel-test
 *   build/kernel-test/test-kernels/filigree_kernel_test [--filter NAME] [--isa NAME]
 * filigree_grammar_test beside it is the engine of constrained output alone: with -DFILIGREE_SANITIZE=ON it runs in seconds
 * under AddressSanitizer and UndefinedBehaviorSanitizer.
 */
const run = promisify(execFile);
const folder = join(PACKAGE_ROOT, 'build', 'kernel-test');
const programs = ['filigree_kernel_test', 'filigree_grammar_test'];
const cmake = spawnSync('cmake', ['--version']).status === 0;

describe.skipIf(!cmake)('native kernels, formats and base (skipped where CMake is missing)', () => {
  beforeAll(async () => {
    await run('cmake', [
      '-S',
      PACKAGE_ROOT,
      '-B',
      folder,
      '-DFILIGREE_TESTS=ON',
      '-DCMAKE_BUILD_TYPE=Release',
    ]);
    await run('cmake', ['--build', folder, '--target', ...programs, '--parallel', '2'], {
      maxBuffer: 1 << 28,
    });
  }, 900_000);

  it.each([
    ['every variant agrees with the scalar reference', 'filigree_kernel_test', 20],
    ['constrained output agrees with brute force', 'filigree_grammar_test', 9],
  ])(
    '%s',
    async (_, name, least) => {
      const program = join(folder, 'test-kernels', name);
      const { stdout } = await run(program, [], { maxBuffer: 1 << 28 }).catch((error) => {
        throw new Error(`${name} failed:\n${String(error.stdout).slice(-8000)}`);
      });
      const [, passed, failed] = /(\d+) passed, (\d+) failed/.exec(stdout) ?? [];
      expect(Number(failed)).toBe(0);
      expect(Number(passed)).toBeGreaterThan(least);
    },
    900_000,
  );
});
