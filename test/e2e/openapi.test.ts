import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { babbles, type Fixture, serve, until } from '../unit/server/fixture.js';

/** A Python that has `schemathesis`. */
const PYTHON = process.env.FILIGREE_TEST_PYTHON;
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

/**
 * schemathesis reads the server's own OpenAPI document, writes requests that keep to it and requests that break it, and
 * judges every answer by the document: status, content type, headers and body of a kind that it names, what breaks it
 * refused, what keeps to it accepted.
 */
/**
 * A body may keep to the document and still be refused, where what is wrong is no matter of one value's form: a token outside
 * the vocabulary, a prompt beyond the context, `stream_options` without `stream`, a schema that cannot be honoured. The answer
 * is then a 400 or the 404 of an unknown model or response, as documented; any other refusal is a violation.
 */
const CONFIG = '[checks.positive_data_acceptance]\nexpected-statuses = ["2xx", "400", "404"]\n';

/** It wants every response that was made to be there for GET: one made with `store: false` is not. */
const EXCLUDED = 'ensure_resource_availability';

describe.skipIf(without)(`The OpenAPI document${without ? ` (${without})` : ''}`, () => {
  let fixture: Fixture;
  const folder = mkdtempSync(join(tmpdir(), 'filigree-openapi-'));
  afterEach(async () => {
    fixture.app.server.closeAllConnections();
    await fixture.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it('is what the server does, as schemathesis sees it', async () => {
    fixture = await serve(babbles, { server: { bodyLimit: 1 << 20 } });
    await fixture.app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = fixture.app.server.address() as { port: number };
    writeFileSync(join(folder, 'schemathesis.toml'), CONFIG);
    const flags = ['--max-examples', '10', '--seed', '7', '--no-color', '--exclude-checks', EXCLUDED];
    const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
      execFile(
        program as string,
        ['run', `http://127.0.0.1:${port}/openapi.json`, ...flags],
        { cwd: folder, maxBuffer: 1 << 28 },
        (error, stdout, stderr) => resolve({ code: error?.code ?? 0, output: stdout + stderr }),
      );
    });
    expect(code, output.slice(-20_000)).toBe(0);
    expect(output).toMatch(/Tested: (\d+)/);
    await until('every block is free', () => fixture.engine.stats().usedBlocks === 0);
  }, 240_000);
});
