import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { babbles, EOS, type Fixture, type Script, serve, until } from '../unit/server/fixture.js';
import { PYTHON } from './router.js';

const program = PYTHON === undefined ? null : join(PYTHON, '..', 'schemathesis');

function reason(): string | null {
  if (program === null) return 'skipped, FILIGREE_TEST_PYTHON names no Python with schemathesis';
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return null;
  } catch {
    return `skipped, ${program} does not run`;
  }
}
const without = reason();

/** Two checks that leave out what no document can tell, in the place of schemathesis's own. */
const HOOKS = join(import.meta.dirname, 'schemathesis_checks.py');
const REPLACED = 'positive_data_acceptance,ensure_resource_availability';

/** Ends by itself, so that what has no limit does not fill the context. */
const babblesShortly: Script = (prompt, generated, seed) =>
  generated < 24 ? babbles(prompt, generated, seed) : EOS;

/**
 * schemathesis reads the server's own OpenAPI document, writes requests that keep to it and requests that break it, and
 * judges every answer by the document: status, content type, headers and body of a kind that it names, what breaks it
 * refused, what keeps to it accepted.
 */
describe.skipIf(without)(`The OpenAPI document${without ? ` (${without})` : ''}`, () => {
  let fixture: Fixture;
  const folder = mkdtempSync(join(tmpdir(), 'filigree-openapi-'));
  afterEach(async () => {
    fixture.app.server.closeAllConnections();
    await fixture.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it('is what the server does, as schemathesis sees it', async () => {
    fixture = await serve(babblesShortly, {
      server: { bodyLimit: 1 << 20 },
      runner: { maxModelLen: 4096 },
    });
    await fixture.app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = fixture.app.server.address() as { port: number };
    const url = `http://127.0.0.1:${port}/openapi.json`;
    const flags = ['--max-examples', '10', '--seed', '7', '--no-color', '--exclude-checks', REPLACED];
    const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
      execFile(
        program as string,
        ['run', url, ...flags],
        { cwd: folder, maxBuffer: 1 << 28, env: { ...process.env, SCHEMATHESIS_HOOKS: HOOKS } },
        (error, stdout, stderr) => resolve({ code: error?.code ?? 0, output: stdout + stderr }),
      );
    });
    expect(code, output.slice(-20_000)).toBe(0);
    expect(output).toMatch(/Tested: (\d+)/);
    await until('every block is free', () => fixture.engine.stats().usedBlocks === 0);
  }, 240_000);
});
