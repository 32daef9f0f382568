import { byId, bytes, make, percent, svg } from './dom.js';

export interface Variant {
  name: string;
  label: string;
  format: string;
  weight_bytes: number;
  sparsity: number;
}

export interface ModelPage {
  name: string;
  architecture: string;
  layers: number;
  max_model_len: number;
  max_num_seqs: number;
  isa: string;
  threads: number;
  kv_type: string;
  formats: Record<string, number>;
  weight_bytes: number;
  dense_f32_bytes: number;
  sparsity: number;
  /** Share of zeros by kind of matrix and layer; null while they are counted. */
  zeros: Record<string, (number | null)[]> | null;
  compare: Variant[];
}

const ROW = 16;
const LEFT = 62;
const WIDTH = 280;

export function showFacts(model: ModelPage): void {
  byId('model-name').textContent = model.name;
  document.title = `${model.name} · Filigree`;
  const formats = Object.entries(model.formats).sort((a, b) => b[1] - a[1]);
  const rows: [string, string][] = [
    ['Architecture', model.architecture],
    ['Context', `${model.max_model_len} tokens`],
    ['Weights', bytes(model.weight_bytes)],
    [
      'As dense f32',
      `${bytes(model.dense_f32_bytes)} (${(model.dense_f32_bytes / model.weight_bytes).toFixed(1)} x)`,
    ],
    ['Zeros left out', percent(model.sparsity)],
    ...formats.map(([name, size]): [string, string] => [`· ${name}`, bytes(size)]),
    ['KV cache', model.kv_type],
    ['Runs on', `${model.isa}, ${model.threads} threads`],
  ];
  byId('facts').replaceChildren(
    ...rows.flatMap(([name, text]) => [make('dt', '', name), make('dd', '', text)]),
  );
}

/** A row for each kind of matrix, a column for each layer: the filled height is the share of zeros. */
export function drawZeros(model: ModelPage): void {
  const picture = byId('zeros');
  const caption = byId('zeros-caption');
  if (model.zeros === null) return;
  const kinds = Object.entries(model.zeros);
  const column = (WIDTH - LEFT) / model.layers;
  picture.setAttribute('viewBox', `0 0 ${WIDTH} ${kinds.length * ROW}`);
  picture.replaceChildren(
    ...kinds.flatMap(([kind, shares], row) => [
      svg('text', { x: 0, y: row * ROW + 11 }, kind),
      svg('rect', { class: 'frame', x: LEFT, y: row * ROW + 1, width: WIDTH - LEFT, height: ROW - 3 }),
      ...shares.map((share, layer) => {
        const height = (share ?? 0) * (ROW - 3);
        const cell = svg('rect', {
          class: 'cell',
          x: LEFT + layer * column,
          y: row * ROW + ROW - 2 - height,
          width: column * 0.9,
          height,
        });
        cell.append(
          svg('title', {}, `layer ${layer} ${kind}: ${share === null ? 'not counted' : percent(share)}`),
        );
        return cell;
      }),
    ]),
  );
  const known = kinds.flatMap(([, shares]) => shares.filter((share) => share !== null));
  const mean = known.reduce((a, b) => a + b, 0) / Math.max(1, known.length);
  caption.textContent = `Zeros by matrix, first layer to last: ${percent(mean)} on average.`;
}
