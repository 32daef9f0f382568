import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { PACKAGE_ROOT } from '../../../src/config.js';
import { type Fixture, type Json, says, serve, user } from './fixture.js';

const read = (path: string) => readFileSync(join(PACKAGE_ROOT, 'deploy', path), 'utf8');
const documents = (path: string) => parseAllDocuments(read(path)).map((d) => d.toJS() as Json);

const promtool = (() => {
  try {
    execFileSync('promtool', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

describe('what watches the server', () => {
  let fixture: Fixture;
  let exposed: Set<string>;
  let metrics: string;
  beforeAll(async () => {
    fixture = await serve(says('x'));
    await fixture.post('/v1/chat/completions', { messages: user('a') });
    metrics = (await fixture.app.inject({ url: '/metrics' })).body;
    exposed = new Set([...metrics.matchAll(/^([a-z_]+:?[a-z0-9_]+)\{/gm)].map(([, name]) => name as string));
  });
  afterAll(() => fixture.close());

  it.each(['prometheus/rules.yml', 'grafana/filigree.json', 'kubernetes/keda.yaml'])(
    'asks only for metrics that it has: %s',
    (path) => {
      const asked = [...read(path).matchAll(/\b(?:vllm:|filigree_)[a-z_0-9]+/g)].map(([name]) => name);
      expect(asked.length).toBeGreaterThan(0);
      expect(asked.filter((name) => !exposed.has(name))).toEqual([]);
    },
  );

  it.skipIf(!promtool)(
    `has rules, alerts and metrics that promtool takes${promtool ? '' : ' (skipped, no promtool: Debian’s prometheus)'}`,
    () => {
      const cwd = join(PACKAGE_ROOT, 'deploy', 'prometheus');
      execFileSync('promtool', ['check', 'rules', 'rules.yml'], { cwd });
      execFileSync('promtool', ['test', 'rules', 'rules.test.yml'], { cwd });
      // Its complaints about names are vLLM's to answer; a line that cannot be read fails.
      const checked = (() => {
        try {
          return execFileSync('promtool', ['check', 'metrics'], { input: metrics, encoding: 'utf8' });
        } catch (error) {
          return String((error as { stderr?: unknown }).stderr);
        }
      })();
      expect(checked).not.toContain('error while linting');
    },
  );

  it('has a deployment whose probes are routes of the server, and which drains before it is killed', async () => {
    const [, deployment] = documents('kubernetes/filigree.yaml');
    const pod = deployment.spec.template.spec;
    const [container] = pod.containers;
    for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe'])
      expect((await fixture.app.inject({ url: container[probe].httpGet.path })).statusCode).toBe(200);
    const drain = Number(container.args[container.args.indexOf('--drain-timeout') + 1]);
    const wait = Number(container.lifecycle.preStop.exec.command[1]);
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(drain + wait);
    expect(deployment.spec.template.metadata.labels).toMatchObject(deployment.spec.selector.matchLabels);
    for (const path of ['kubernetes/gateway.yaml', 'kubernetes/keda.yaml'])
      for (const document of documents(path))
        expect(document).toMatchObject({ apiVersion: expect.anything(), kind: expect.anything() });
  });
});
