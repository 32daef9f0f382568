import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { PACKAGE_ROOT } from '../../../src/config.js';
import type { Json } from './fixture.js';

/**
 * The manifests against the schemas of what takes them: Kubernetes' own, KEDA's and the Gateway API's, as
 * kubernetes-models has them generated. No registry has the Inference Extension's: its InferencePool is checked by hand.
 */
const require = createRequire(import.meta.url);
const PACKAGES: Record<string, string> = {
  'keda.sh': '@kubernetes-models/keda/keda.sh',
  'gateway.networking.k8s.io': '@kubernetes-models/gateway-api/gateway.networking.k8s.io',
};

const documents = ['filigree', 'keda', 'gateway', 'router'].flatMap((name) =>
  parseAllDocuments(readFileSync(join(PACKAGE_ROOT, 'deploy', 'kubernetes', `${name}.yaml`), 'utf8')).map(
    (document) => document.toJS() as Json,
  ),
);
const pool = documents.find(({ kind }) => kind === 'InferencePool');
const known = documents.filter((document) => document !== pool);

function validate(document: Json): void {
  const [group, version] = document.apiVersion.includes('/')
    ? document.apiVersion.split('/')
    : ['', document.apiVersion];
  const folder = PACKAGES[group] ?? (group === '' ? 'kubernetes-models' : `kubernetes-models/${group}`);
  const Model = require(`${folder}/${version}/${document.kind}`)[document.kind];
  new Model(document).validate();
}

/** The document with one value replaced, found by its path. */
function changed(kind: string, path: (string | number)[], value: unknown): Json {
  const document = structuredClone(known.find((each) => each.kind === kind));
  const at = path.slice(0, -1).reduce((node, key) => node[key], document);
  if (value === undefined) delete at[path.at(-1) as string];
  else at[path.at(-1) as string] = value;
  return document;
}

describe('Kubernetes manifests', () => {
  it.each(known.map((document) => [document.kind, document]))(
    '%s is what its schema wants',
    (_, document) => {
      validate(document);
    },
  );

  it.each([
    ['Service', ['spec', 'ports', 0, 'port'], 'http'],
    ['Deployment', ['spec', 'selector'], undefined],
    ['Deployment', ['spec', 'replicas'], 'two'],
    ['Deployment', ['spec', 'template', 'spec', 'containers', 0, 'name'], undefined],
    [
      'Deployment',
      ['spec', 'template', 'spec', 'containers', 0, 'readinessProbe', 'httpGet', 'port'],
      undefined,
    ],
    ['PodDisruptionBudget', ['spec', 'selector'], 5],
    ['ScaledObject', ['spec', 'triggers', 0, 'metadata', 'threshold'], 8],
    ['ScaledObject', ['spec', 'scaleTargetRef'], undefined],
    ['HTTPRoute', ['spec', 'rules', 0, 'matches', 0, 'path', 'type'], 'Prefix'],
    ['HTTPRoute', ['spec', 'rules', 0, 'backendRefs', 0, 'name'], undefined],
  ] as [string, (string | number)[], unknown][])(
    'a %s with a wrong %j is refused by it',
    (kind, path, value) => {
      expect(() => validate(changed(kind, path, value))).toThrow();
    },
  );

  it('the router finds the servers by their label, and alone may read their events', () => {
    const router = known.find(({ metadata }) => metadata.name === 'filigree-router' && metadata.labels);
    const { args } = router.spec.template.spec.containers[0];
    const deployment = known.find(
      ({ metadata, kind }) => kind === 'Deployment' && metadata.name === 'filigree',
    );
    const [key, value] = Object.entries(deployment.spec.selector.matchLabels)[0] as [string, string];
    expect(args).toContain(`--selector=${key}=${value}`);
    const policy = known.find(({ kind }) => kind === 'NetworkPolicy');
    expect(policy.spec.podSelector).toEqual({ matchLabels: deployment.spec.selector.matchLabels });
    const [open, guarded] = policy.spec.ingress;
    expect(open).toEqual({ ports: [{ port: 8000 }] });
    expect(guarded.from).toEqual([{ podSelector: { matchLabels: router.spec.selector.matchLabels } }]);
  });

  it('the pool is one of the Inference Extension’s v1, and the route leads to it', () => {
    expect(pool).toEqual({
      apiVersion: 'inference.networking.k8s.io/v1',
      kind: 'InferencePool',
      metadata: { name: expect.any(String) },
      spec: {
        selector: { matchLabels: expect.any(Object) },
        targetPorts: [{ number: expect.any(Number) }],
        endpointPickerRef: { name: expect.any(String), port: { number: expect.any(Number) } },
      },
    });
    const route = known.find(({ kind }) => kind === 'HTTPRoute');
    const [group] = pool.apiVersion.split('/');
    expect(route.spec.rules[0].backendRefs).toEqual([{ group, kind: pool.kind, name: pool.metadata.name }]);
    const deployment = known.find(({ kind }) => kind === 'Deployment');
    expect(deployment.spec.template.metadata.labels).toMatchObject(pool.spec.selector.matchLabels);
    const [{ containerPort }] = deployment.spec.template.spec.containers[0].ports;
    expect(pool.spec.targetPorts[0].number).toBe(containerPort);
    const scaled = known.find(({ kind }) => kind === 'ScaledObject');
    expect(scaled.spec.scaleTargetRef.name).toBe(deployment.metadata.name);
  });
});
