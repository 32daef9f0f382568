import type { ModelManifest, TensorEntry } from '../model/manifest.js';

export interface InspectOptions {
  json?: boolean;
  /** Every tensor on a line of its own. */
  tensors?: boolean;
  /** False skips the counting, which reads the whole model. */
  zeros?: boolean;
}

export interface TensorReport {
  name: string;
  shape: number[];
  format: string;
  bytes: number;
  bits_per_weight: number;
  /** Share of elements that are exactly zero; null where it was not counted. */
  zeros: number | null;
}

export interface InspectReport {
  name: string;
  path: string;
  architecture: string;
  config: ModelManifest['config'];
  parameters: number;
  bytes: number;
  dense_f32_bytes: number;
  dense_bf16_bytes: number;
  /** Of the layers' matrices together. */
  sparsity: number | null;
  formats: Record<string, { tensors: number; parameters: number; bytes: number }>;
  /** What `--weights auto` loads. */
  weights_auto: 'bf16' | 'i8' | 'i4';
  tensors: TensorReport[];
  tokenizer: { origin: string; tokens: number; bos: string | null; eos: string[]; adds_bos: boolean };
  template: string | null;
  files: { path: string; bytes: number }[];
  source_key: string;
  problems: string[];
}

const AUTO = { float: 'bf16', '8bit': 'i8', '4bit': 'i4' } as const;

const count = (tensor: TensorEntry) => tensor.shape.reduce((a, b) => a * b, 1);
const size = (tensor: TensorEntry) => Object.values(tensor.parts).reduce((sum, part) => sum + part.bytes, 0);
const inLayers = (name: string) => /^model\.layers\.\d+\..*_proj\.weight$/.test(name);

/** Everything `inspect` says of a model. `onProgress` follows the counting in bytes. */
export async function inspectModel(
  manifest: ModelManifest,
  withZeros: boolean,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<InspectReport> {
  const [{ ReadableFile }, { countZeros }] = await Promise.all([
    import('../model/model-file.js'),
    import('../model/zeros.js'),
  ]);
  const { config, tokenizer } = manifest;
  const bytes = manifest.tensors.reduce((sum, t) => sum + size(t), 0);
  const files = manifest.files.map((file) => ReadableFile.open(file.path));
  const tensors: TensorReport[] = [];
  let done = 0;
  let zeros = 0;
  let weights = 0;
  try {
    for (const t of manifest.tensors) {
      const n = withZeros ? await countZeros(t, files) : null;
      if (n !== null && inLayers(t.name)) {
        zeros += n;
        weights += count(t);
      }
      done += size(t);
      onProgress(done, bytes);
      tensors.push({
        name: t.name,
        shape: t.shape,
        format: t.encoding,
        bytes: size(t),
        bits_per_weight: (8 * size(t)) / count(t),
        zeros: n === null ? null : n / count(t),
      });
    }
  } finally {
    for (const file of files) file.close();
  }
  const formats: InspectReport['formats'] = {};
  for (const t of manifest.tensors) {
    const row = formats[t.encoding] ?? { tensors: 0, parameters: 0, bytes: 0 };
    formats[t.encoding] = row;
    row.tensors++;
    row.parameters += count(t);
    row.bytes += size(t);
  }
  const parameters = manifest.tensors.reduce((sum, t) => sum + count(t), 0);
  const model = tokenizer.tokenizerJson.model as { vocab: Record<string, number> };
  const added = (tokenizer.tokenizerJson.added_tokens ?? []) as { id: number; content: string }[];
  const texts = new Map([
    ...Object.entries(model.vocab).map(([text, id]) => [id, text] as const),
    ...added.map((t) => [t.id, t.content] as const),
  ]);
  return {
    name: manifest.name,
    path: manifest.path,
    architecture: config.architecture,
    config,
    parameters,
    bytes,
    dense_f32_bytes: 4 * parameters,
    dense_bf16_bytes: 2 * parameters,
    sparsity: weights === 0 ? null : zeros / weights,
    formats,
    weights_auto: AUTO[manifest.sourceClass],
    tensors,
    tokenizer: {
      origin: tokenizer.origin,
      tokens: texts.size,
      bos: tokenizer.config.bosToken,
      eos: config.eosTokenIds.map((id) => texts.get(id) ?? `#${id}`),
      adds_bos: tokenizer.config.addBos,
    },
    template: manifest.chatTemplate,
    files: manifest.files.map((file) => ({ path: file.path, bytes: file.size })),
    source_key: manifest.sourceKey,
    problems: manifest.problems,
  };
}

const LEVELS = ' ▁▂▃▄▅▆▇█';
const KINDS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

/** Layers from left to right, one row for each kind of matrix: the height of a block is its share of zeros. */
export function drawZeros(tensors: TensorReport[], layers: number, width = 100): string[] {
  const step = Math.ceil(layers / width);
  const byKey = new Map<string, number>();
  for (const t of tensors) {
    const match = /^model\.layers\.(\d+)\..*?(\w+_proj)\.weight$/.exec(t.name);
    if (match !== null && t.zeros !== null) byKey.set(`${match[2]} ${Number(match[1])}`, t.zeros);
  }
  return KINDS.map((kind) => {
    const shares = Array.from({ length: layers }, (_, layer) => byKey.get(`${kind} ${layer}`));
    const known = shares.filter((share) => share !== undefined);
    let bar = '';
    for (let layer = 0; layer < layers; layer += step) {
      const cell = shares.slice(layer, layer + step).filter((share) => share !== undefined);
      const mean = cell.reduce((a, b) => a + b, 0) / cell.length;
      bar += cell.length === 0 ? '?' : LEVELS[Math.round(mean * 8)];
    }
    const mean = known.reduce((a, b) => a + b, 0) / known.length;
    return `${kind.padEnd(10)}│${bar}│ ${known.length === 0 ? 'not counted' : percent(mean)}`;
  });
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const millions = (n: number) =>
  n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : `${n}`;
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** `filigree inspect MODEL`: what a model is, how many of its weights are zero, and what is wrong with it. */
export async function inspectCommand(model: string | undefined, options: InspectOptions): Promise<void> {
  const [{ openModel, resolveModel }, { loadProgress }] = await Promise.all([
    import('../model/index.js'),
    import('./progress.js'),
  ]);
  const manifest = await openModel(await resolveModel(model));
  const progress = loadProgress(manifest.name);
  let report: InspectReport;
  try {
    report = await inspectModel(manifest, options.zeros !== false, (done, total) =>
      progress.update(done, total),
    );
  } finally {
    progress.stop();
  }
  if (options.json) process.stdout.write(`${JSON.stringify(report)}\n`);
  else process.stdout.write(await render(report, options.tensors === true));
}

async function render(r: InspectReport, withTensors: boolean): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const c = r.config;
  const facts: [string, string][] = [
    ['model', `${r.name} (${r.path})`],
    [
      'architecture',
      `${r.architecture}, ${c.numLayers} layers, ${c.hiddenSize} wide, ${c.intermediateSize} within, ${c.numHeads} heads of ${c.headDim}, ${c.numKvHeads} for keys and values`,
    ],
    [
      'context',
      `${c.maxPositionEmbeddings} tokens, rotary base ${c.ropeTheta}, scaling ${c.ropeScaling.kind}${c.slidingWindow === null ? '' : `, window ${c.slidingWindow}`}`,
    ],
    ['head', `${c.tieWordEmbeddings ? 'tied to the embedding' : 'its own'}, ${c.vocabSize} rows`],
    [
      'tokenizer',
      `${r.tokenizer.tokens} tokens from ${r.tokenizer.origin}; begins with ${r.tokenizer.adds_bos ? r.tokenizer.bos : 'nothing'}, ends at ${r.tokenizer.eos.join(' ') || 'nothing'}`,
    ],
    ['template', r.template === null ? 'none' : `${r.template.length} characters`],
    [
      'weights',
      `${millions(r.parameters)} in ${mib(r.bytes)} = ${((8 * r.bytes) / r.parameters).toFixed(2)} bits each; dense bf16 ${mib(r.dense_bf16_bytes)}, f32 ${mib(r.dense_f32_bytes)}`,
    ],
    ['zeros', r.sparsity === null ? 'not counted' : `${percent(r.sparsity)} of the layers' matrices`],
    ['in memory', `--weights auto loads ${r.weights_auto}`],
  ];
  let text = facts.map(([name, value]) => `${name.padEnd(14)}${value}\n`).join('');
  const style = { head: [], border: [] };
  const formats = new Table({
    head: ['format', 'tensors', 'weights', 'size', 'bits/weight'],
    style,
    colAligns: ['left', 'right', 'right', 'right', 'right'],
  });
  for (const [name, f] of Object.entries(r.formats)) {
    formats.push([
      name,
      f.tensors,
      millions(f.parameters),
      mib(f.bytes),
      ((8 * f.bytes) / f.parameters).toFixed(2),
    ]);
  }
  text += `${formats.toString()}\n`;
  if (r.sparsity !== null)
    text += `zeros by layer, first to last:\n${drawZeros(r.tensors, c.numLayers).join('\n')}\n`;
  if (withTensors) {
    const table = new Table({
      head: ['tensor', 'shape', 'format', 'size', 'zeros'],
      style,
      colAligns: ['left', 'right', 'left', 'right', 'right'],
    });
    for (const t of r.tensors)
      table.push([
        t.name,
        t.shape.join(' x '),
        t.format,
        mib(t.bytes),
        t.zeros === null ? '–' : percent(t.zeros),
      ]);
    text += `${table.toString()}\n`;
  }
  for (const problem of r.problems) text += `problem: ${problem}\n`;
  return text;
}
