import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/config.js';
import { type Fixture, type Json, says, serve } from './fixture.js';

/** docs/api.md has the tables that the server's own schemas give; FILIGREE_UPDATE_DOCS=1 writes them. */
const FILE = join(PACKAGE_ROOT, 'docs', 'api.md');
const BEGIN = '<!-- tables: written by test/unit/server/conformance-doc.test.ts -->';

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

function status(description: string): string {
  if (/^ignored/i.test(description)) return 'ignored';
  if (/^(refused|only .* so far)/i.test(description)) return 'refused';
  return 'works';
}

function kind(schema: Json): string {
  const types = new Set<string>();
  const visit = (s: Json) => {
    for (const option of s.anyOf ?? []) visit(option);
    if (s.enum) for (const value of s.enum) if (value !== null) types.add(`\`${value}\``);
    if (!s.enum && s.type) for (const type of [s.type].flat()) if (type !== 'null') types.add(type);
  };
  visit(schema);
  const bounds = [
    schema.minimum !== undefined && schema.minimum > -(2 ** 31) + 1 ? `≥ ${schema.minimum}` : '',
    schema.exclusiveMinimum !== undefined ? `> ${schema.exclusiveMinimum}` : '',
    schema.maximum !== undefined && schema.maximum < 2 ** 31 - 1 ? `≤ ${schema.maximum}` : '',
  ].filter(Boolean);
  return [[...types].join(' or '), ...bounds].join(', ');
}

function tables(document: Json): string {
  let text = '';
  for (const [path, methods] of Object.entries(document.paths) as [string, Json][])
    for (const [method, operation] of Object.entries(methods) as [string, Json][]) {
      const schema = operation.requestBody?.content?.['application/json']?.schema;
      text += `\n### \`${method.toUpperCase()} ${path}\`\n\n${operation.summary ?? ''}.\n`;
      const query = (operation.parameters ?? []).filter((parameter: Json) => parameter.in === 'query');
      if (!schema && query.length === 0) continue;
      text += '\n| Parameter | | Takes | |\n| --- | --- | --- | --- |\n';
      for (const { name, schema: property, description: said } of query) {
        const description = said ?? property.description ?? '';
        text += `| \`?${name}=\` | ${status(description)} | ${cell(kind(property))} | ${cell(description)} |\n`;
      }
      if (!schema) continue;
      for (const [name, property] of Object.entries(schema.properties) as [string, Json][]) {
        const description = property.description ?? '';
        const required = schema.required?.includes(name) ? ' (required)' : '';
        text += `| \`${name}\`${required} | ${status(description)} | ${cell(kind(property))} | ${cell(description)} |\n`;
      }
    }
  return text;
}

describe('docs/api.md', () => {
  let fixture: Fixture;
  beforeAll(async () => {
    // Its own limits are no matter of the table.
    fixture = await serve(says('x'), { runner: { hiddenSize: 2 ** 31, maxModelLen: 2 ** 31 } });
  });
  afterAll(() => fixture.close());

  it('lists every route and parameter as the server has them', async () => {
    const document = (await fixture.app.inject({ url: '/openapi.json' })).json();
    const current = readFileSync(FILE, 'utf8');
    const head = current.slice(0, current.indexOf(BEGIN) + BEGIN.length);
    const expected = `${head}\n${tables(document)}`;
    if (process.env.FILIGREE_UPDATE_DOCS) writeFileSync(FILE, expected);
    expect(readFileSync(FILE, 'utf8')).toBe(expected);
  });
});
