import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../src/config.js';
import { embeddedDefault } from '../../src/model/resolve.js';
import { missingProgram, Program } from './processes.js';

/** What deploy/Dockerfile's last stage copies, laid out in an empty folder: enough to serve, and nothing reached for beside it. */
const reason = missingProgram ?? (embeddedDefault() === null ? 'skipped, no embedded model' : null);
const dockerfile = readFileSync(join(PACKAGE_ROOT, 'deploy', 'Dockerfile'), 'utf8');

describe.skipIf(reason)(`The image's last stage${reason ? ` (${reason})` : ''}`, () => {
  let root: string;
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), 'filigree-image-'));
    for (const [, sources, target] of dockerfile.matchAll(/^COPY --from=build (.+) (\S+)$/gm))
      for (const source of (sources as string).split(' ')) {
        const from = join(PACKAGE_ROOT, source.replace(/^\/app\//, ''));
        const to = join(root, target === './' ? source.replace(/^\/app\//, '') : (target as string));
        mkdirSync(dirname(to), { recursive: true });
        // The large ones are read alone.
        if (target === 'node_modules' || target === 'models') symlinkSync(from, to);
        else cpSync(from, to, { recursive: true });
      }
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it('starts as its command says, answers, and is healthy as its health check asks', async () => {
    const [, entry] = /^ENTRYPOINT (\[.*\])$/m.exec(dockerfile) as RegExpExecArray;
    const [, command] = /^CMD (\[.*\])$/m.exec(dockerfile) as RegExpExecArray;
    const [node, main] = JSON.parse(entry as string);
    expect(node).toBe('node');
    // Loopback and any port, where the image has 0.0.0.0 and its own.
    const args = (JSON.parse(command as string) as string[]).map((arg) =>
      arg === '0.0.0.0' ? '127.0.0.1' : arg,
    );
    const cache = join(root, 'cache');
    const server = new Program([...args, '--port', '0', '--threads', '1', '--kv-memory', '64MiB'], {
      main: join(root, main),
      env: { NODE_ENV: 'production', FILIGREE_CACHE: cache, HOME: '/nonexistent' },
    });
    try {
      const { url } = await server.ready();
      const [, check] = /^HEALTHCHECK .*CMD (\[.*\])$/m.exec(dockerfile) as RegExpExecArray;
      const path = new URL(/'(http[^']*)'/.exec(check as string)?.[1] as string).pathname;
      expect((await fetch(`${url}${path}`)).status).toBe(200);
      const answer = await fetch(`${url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ messages: [{ role: 'user', content: 'Hello' }], max_tokens: 4 }),
      });
      expect(answer.status).toBe(200);
      const page = await fetch(`${url}/`, { headers: { accept: 'text/html' } });
      expect(page.headers.get('content-type')).toContain('text/html');
    } finally {
      server.kill();
      await server.end();
    }
  }, 120_000);
});
