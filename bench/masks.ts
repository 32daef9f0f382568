import { pathToFileURL } from 'node:url';
import Table from 'cli-table3';
import { type ConstraintSpec, constraintProgram, tokenTable } from '../src/grammar/index.js';
import { readHfTokenizer } from '../src/model/hf-tokenizer.js';
import { createMatcher, NativeGrammars } from '../src/native/index.js';
import { Tokenizer } from '../src/tokenizer/index.js';
import { median } from './measure.js';

/**
 * What constrained output costs a token: the mask of every position of a document, by a grammar that was just compiled (cold:
 * every mask is computed) and once more (warm: masks are looked up).
 *
 *   node dist/bench/masks.js FOLDER_OF_A_TOKENIZER [ROUNDS]
 */
interface Case {
  name: string;
  spec: ConstraintSpec;
  document: string;
}

const person = {
  type: 'object',
  properties: {
    name: { type: 'string' },
    email: { type: 'string', format: 'email' },
    age: { type: 'integer', minimum: 0, maximum: 150 },
    tags: { type: 'array', items: { type: 'string' }, maxItems: 5 },
  },
  required: ['name', 'email', 'age'],
  additionalProperties: false,
};

const order = {
  type: 'object',
  properties: {
    id: { type: 'string', format: 'uuid' },
    placed: { type: 'string', format: 'date-time' },
    status: { enum: ['open', 'paid', 'shipped', 'cancelled'] },
    items: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        properties: {
          title: { type: 'string', maxLength: 80 },
          quantity: { type: 'integer', minimum: 1 },
          price: { type: 'number', minimum: 0 },
        },
        required: ['title', 'quantity', 'price'],
      },
    },
    note: { type: ['string', 'null'] },
  },
  required: ['id', 'placed', 'status', 'items', 'note'],
};

export const CASES: Case[] = [
  {
    name: 'person with an e-mail address',
    spec: { kind: 'json', schema: person },
    document:
      '{"name": "Grace Brewster Hopper", "email": "grace.hopper@navy.example.com", "age": 85, "tags": ["compilers", "navy"]}',
  },
  {
    name: 'order: uuid, date-time, enum, list',
    spec: { kind: 'json', schema: order },
    document:
      '{"id": "3f2a9c1e-7b64-4d0a-9e55-0c8f1b2d3a4e", "placed": "2024-03-09T14:05:00Z", "status": "shipped", "items": [{"title": "A blue teapot, hand made", "quantity": 2, "price": 24.5}, {"title": "Saucers", "quantity": 12, "price": 3}], "note": "Leave it with the neighbours, please."}',
  },
  {
    name: 'link: uri, hostname, ipv4',
    spec: {
      kind: 'json',
      schema: {
        type: 'object',
        properties: {
          url: { type: 'string', format: 'uri' },
          host: { type: 'string', format: 'hostname' },
          address: { type: 'string', format: 'ipv4' },
        },
        required: ['url', 'host', 'address'],
      },
    },
    document:
      '{"url": "https://docs.example.org/guide/start?page=2#install", "host": "docs.example.org", "address": "192.168.17.4"}',
  },
  {
    name: 'any JSON object',
    spec: { kind: 'json_object' },
    document:
      '{"title": "A report", "pages": 12, "draft": false, "authors": [{"name": "Ada"}, {"name": "Charles"}], "score": 0.75}',
  },
  {
    name: 'pattern of a product code',
    spec: { kind: 'regex', pattern: '[A-Z]{2,4}-[0-9]{4,6}(?:/[a-z0-9_]+)?' },
    document: 'ABC-20417/blue_teapot_large',
  },
];

export interface MaskRow {
  name: string;
  tokens: number;
  compile_ms: number;
  /** Averages and the worst of a document's masks, microseconds. */
  cold_us: number;
  cold_worst_us: number;
  warm_us: number;
}

export async function benchMasks(folder: string, rounds: number): Promise<MaskRow[]> {
  const tokenizer = Tokenizer.create(readHfTokenizer(folder));
  const end = tokenizer.eosId ?? 0;
  const grammars = new NativeGrammars(() => tokenTable(tokenizer, tokenizer.vocabSize, [end]));
  // The vocabulary's trie is built with the first grammar, once a server.
  await grammars.compile(constraintProgram({ kind: 'regex', pattern: 'a' }, 'bench'));
  const rows: MaskRow[] = [];
  for (const { name, spec, document } of CASES) {
    const tokens = [...tokenizer.encode(document, { addSpecial: false })];
    const samples: { compile: number; cold: number; worst: number; warm: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      const begin = performance.now();
      const grammar = await grammars.compile(constraintProgram(spec, 'bench'));
      const compile = performance.now() - begin;
      const passes = [0, 1].map(() => {
        const matcher = createMatcher(grammar);
        return tokens.map((token) => {
          const start = performance.now();
          matcher.mask();
          const microseconds = (performance.now() - start) * 1000;
          if (!matcher.accept(token)) throw new Error(`${name}: the document breaks its own constraint`);
          return microseconds;
        });
      }) as [number[], number[]];
      const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
      samples.push({
        compile,
        cold: mean(passes[0]),
        worst: Math.max(...passes[0]),
        warm: mean(passes[1]),
      });
    }
    const of = (key: keyof (typeof samples)[0]) => median(samples.map((sample) => sample[key]));
    rows.push({
      name,
      tokens: tokens.length,
      compile_ms: of('compile'),
      cold_us: of('cold'),
      cold_worst_us: of('worst'),
      warm_us: of('warm'),
    });
  }
  return rows;
}

async function main(): Promise<void> {
  const [folder, rounds = '9'] = process.argv.slice(2);
  if (folder === undefined) throw new Error('which tokenizer? Name a folder with a tokenizer.json');
  const table = new Table({ head: ['constraint', 'tokens', 'compile ms', 'cold µs', 'worst µs', 'warm µs'] });
  for (const row of await benchMasks(folder, Number(rounds)))
    table.push([
      row.name,
      row.tokens,
      ...[row.compile_ms, row.cold_us, row.cold_worst_us, row.warm_us].map((value) => value.toFixed(1)),
    ]);
  process.stdout.write(`${table.toString()}\n`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();
