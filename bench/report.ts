import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Table from 'cli-table3';
import type { BenchResult, BenchRow } from './compare.js';

const fixed = (value: number | null, digits = 1): string =>
  value === null || !Number.isFinite(value) ? '–' : value.toFixed(digits);
const bytes = (count: number): string =>
  Number.isNaN(count)
    ? '–'
    : count >= 1e9
      ? `${(count / 1e9).toFixed(2)} GB`
      : `${(count / 1e6).toFixed(1)} MB`;

interface Column {
  head: string;
  left?: boolean;
  cell(row: BenchRow): string;
}

const COLUMNS: Column[] = [
  { head: 'engine', left: true, cell: (row) => row.engine },
  { head: 'weights', left: true, cell: (row) => row.format },
  { head: 'zeros', cell: (row) => `${Math.round(row.sparsity * 100)} %` },
  { head: 'size', cell: (row) => bytes(row.weight_bytes) },
  { head: 'batch', cell: (row) => String(row.batch) },
  { head: 'prefill tok/s', cell: (row) => fixed(row.prefill_tps) },
  { head: 'x dense f32', cell: (row) => fixed(row.prefill_x_dense_f32, 2) },
  { head: 'decode tok/s', cell: (row) => fixed(row.decode_tps) },
  { head: 'x dense f32', cell: (row) => fixed(row.x_dense_f32, 2) },
  { head: 'GB/s', cell: (row) => fixed(row.decode_gbps) },
  {
    head: 'of bandwidth',
    cell: (row) => (row.x_bound === null ? '–' : `${Math.round(row.x_bound * 100)} %`),
  },
];
const AGAINST_PEERS: Column[] = [
  { head: 'prefill x peer', cell: (row) => fixed(row.prefill_x_best_peer, 2) },
  { head: 'decode x peer', cell: (row) => fixed(row.x_best_peer, 2) },
];

const DISTURBED: Column[] = [{ head: 'x quiet, busy neighbour', cell: (row) => fixed(row.x_quiet, 2) }];

const columnsOf = (result: BenchResult): Column[] => [
  ...COLUMNS,
  ...(result.rows.some((row) => row.x_best_peer !== null) ? AGAINST_PEERS : []),
  ...(result.rows.some((row) => row.x_quiet !== null) ? DISTURBED : []),
];

export const machineLine = ({ machine, ...result }: BenchResult): string =>
  `${machine.cpu}, ${machine.isa}, ${machine.threads} threads; read bandwidth ${fixed(machine.read_gbps_1)} GB/s (1 thread), ` +
  `${fixed(machine.read_gbps)} GB/s (${machine.threads}); prompt ${result.prompt}, context ${result.context}, medians of ${result.rounds} interleaved rounds`;

/** The comparison as a terminal table. */
export function table(result: BenchResult): string {
  const columns = columnsOf(result);
  const drawn = new Table({
    head: columns.map((c) => c.head),
    style: { head: [], border: [], compact: true },
    colAligns: columns.map((c) => (c.left ? 'left' : 'right')),
  });
  drawn.push(...result.rows.map((row) => columns.map((c) => c.cell(row))));
  return `${result.model}\n${machineLine(result)}\n${drawn.toString()}`;
}

export function markdown(result: BenchResult): string {
  const columns = columnsOf(result);
  const line = (cells: string[]) => `| ${cells.join(' | ')} |`;
  return [
    line(columns.map((c) => c.head)),
    line(columns.map((c) => (c.left ? '---' : '--:'))),
    ...result.rows.map((row) => line(columns.map((c) => c.cell(row)))),
  ].join('\n');
}

async function draw(spec: object): Promise<string> {
  const [{ compile }, vega] = await Promise.all([import('vega-lite'), import('vega')]);
  const view = new vega.View(vega.parse(compile(spec as Parameters<typeof compile>[0]).spec), {
    renderer: 'none',
  });
  return await view.toSVG();
}

const PALETTE = ['#4c78a8', '#54a24b', '#9d9da1'];
const KINDS = ['dense', 'sparse', 'peer'];
const kind = (row: BenchRow) => (row.engine !== 'filigree' ? 'peer' : row.sparsity > 0 ? 'sparse' : 'dense');
const label = (row: BenchRow) => (row.engine === 'filigree' ? row.format : `${row.engine} ${row.format}`);

function speedChart(result: BenchResult): object {
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: `Decode speed, ${result.model}`, subtitle: machineLine(result) },
    width: 640,
    height: { step: 26 },
    data: {
      values: result.rows.map((r) => ({
        name: `${label(r)}${r.batch > 1 ? `, batch ${r.batch}` : ''}`,
        kind: kind(r),
        tps: r.decode_tps,
        label: `${fixed(r.decode_tps)}  (${fixed(r.x_dense_f32, 2)}x)`,
      })),
    },
    encoding: {
      y: { field: 'name', type: 'nominal', sort: null, title: null, axis: { labelLimit: 240 } },
      x: { field: 'tps', type: 'quantitative', title: 'tokens per second (x dense f32)' },
    },
    layer: [
      {
        mark: 'bar',
        encoding: {
          color: {
            field: 'kind',
            type: 'nominal',
            scale: { domain: KINDS, range: PALETTE },
            legend: { title: null },
          },
        },
      },
      { mark: { type: 'text', align: 'left', dx: 4 }, encoding: { text: { field: 'label' } } },
    ],
  };
}

/** Bytes a step reads against its time, with the line that the measured bandwidth draws: nothing can lie below it. */
function rooflineChart(result: BenchResult): object {
  const points = result.rows
    .filter((r) => r.decode_gbps !== null)
    .map((r) => ({
      name: `${label(r)}${r.batch > 1 ? ` b${r.batch}` : ''}`,
      kind: kind(r),
      mb: (r.decode_gbps! * 1e9) / (r.decode_tps / r.batch) / 1e6,
      ms: (1000 * r.batch) / r.decode_tps,
    }));
  const largest = Math.max(...points.map((p) => p.mb));
  const smallest = Math.min(...points.map((p) => p.mb));
  const line = [smallest * 0.8, largest * 1.1].map((mb) => ({ mb, ms: mb / result.machine.read_gbps }));
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: {
      text: `Time of a decode step against the bytes it reads, ${result.model}`,
      subtitle: `line: the measured read bandwidth, ${fixed(result.machine.read_gbps)} GB/s`,
    },
    width: 640,
    height: 420,
    layer: [
      {
        data: { values: line },
        mark: { type: 'line', color: '#e45756' },
        encoding: {
          x: { field: 'mb', type: 'quantitative', scale: { type: 'log' }, title: 'MB read per step' },
          y: { field: 'ms', type: 'quantitative', scale: { type: 'log' }, title: 'ms per step' },
        },
      },
      {
        data: { values: points },
        mark: { type: 'point', filled: true, size: 70 },
        encoding: {
          x: { field: 'mb', type: 'quantitative' },
          y: { field: 'ms', type: 'quantitative' },
          color: {
            field: 'kind',
            type: 'nominal',
            scale: { domain: KINDS, range: PALETTE },
            legend: { title: null },
          },
        },
      },
      {
        data: { values: points },
        mark: { type: 'text', align: 'left', dx: 7, dy: -6, fontSize: 10 },
        encoding: {
          x: { field: 'mb', type: 'quantitative' },
          y: { field: 'ms', type: 'quantitative' },
          text: { field: 'name' },
        },
      },
    ],
  };
}

const escapeHtml = (text: string) =>
  text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c]!);

function page(result: BenchResult, charts: string[]): string {
  const columns = columnsOf(result);
  const rows = [columns.map((c) => c.head), ...result.rows.map((row) => columns.map((c) => c.cell(row)))]
    .map(
      (columns, i) =>
        `<tr>${columns.map((c) => (i === 0 ? `<th>${escapeHtml(c)}</th>` : `<td>${escapeHtml(c)}</td>`)).join('')}</tr>`,
    )
    .join('\n');
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Filigree bench: ${escapeHtml(result.model)}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;border-bottom:1px solid #ccc;text-align:right}td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}svg{max-width:100%;height:auto;background:#fff}</style>
<h1>${escapeHtml(result.model)}</h1><p>${escapeHtml(machineLine(result))}</p><table>${rows}</table>${charts.join('\n')}</html>\n`;
}

/** Writes bench.json, bench.md, the two plots as SVG and PNG, and index.html into `folder`; returns the files' names. */
export async function writeReport(result: BenchResult, folder: string): Promise<string[]> {
  const { Resvg } = await import('@resvg/resvg-js');
  mkdirSync(folder, { recursive: true });
  const written: string[] = [];
  const put = (name: string, content: string | Uint8Array) => {
    writeFileSync(join(folder, name), content);
    written.push(name);
  };
  put('bench.json', `${JSON.stringify(result, null, 2)}\n`);
  put('bench.md', `${result.model}: ${machineLine(result)}\n\n${markdown(result)}\n`);
  const charts: string[] = [];
  for (const [name, spec] of [
    ['decode', speedChart(result)],
    ['roofline', rooflineChart(result)],
  ] as const) {
    const svg = await draw(spec);
    charts.push(svg);
    put(`${name}.svg`, svg);
    put(
      `${name}.png`,
      new Resvg(svg, { background: 'white', fitTo: { mode: 'width', value: 1200 } }).render().asPng(),
    );
  }
  put('index.html', page(result, charts));
  return written;
}
