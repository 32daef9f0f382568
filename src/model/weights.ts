import type { ModelConfig, ModelManifest, TensorEntry } from './manifest.js';
import { invalid, unsupported } from './model-file.js';

/** Names and shapes of a model's tensors, in the order the engine walks them. */
export function* expectedTensors(c: ModelConfig): Generator<{ name: string; shape: number[] }> {
  const q = c.numHeads * c.headDim;
  const kv = c.numKvHeads * c.headDim;
  yield { name: 'model.embed_tokens.weight', shape: [c.vocabSize, c.hiddenSize] };
  for (let i = 0; i < c.numLayers; i++) {
    const p = `model.layers.${i}`;
    yield { name: `${p}.input_layernorm.weight`, shape: [c.hiddenSize] };
    for (const [key, rows] of [
      ['q', q],
      ['k', kv],
      ['v', kv],
    ] as const) {
      yield { name: `${p}.self_attn.${key}_proj.weight`, shape: [rows, c.hiddenSize] };
      if (c.qkvBias) yield { name: `${p}.self_attn.${key}_proj.bias`, shape: [rows] };
    }
    yield { name: `${p}.self_attn.o_proj.weight`, shape: [c.hiddenSize, q] };
    yield { name: `${p}.post_attention_layernorm.weight`, shape: [c.hiddenSize] };
    yield { name: `${p}.mlp.gate_proj.weight`, shape: [c.intermediateSize, c.hiddenSize] };
    yield { name: `${p}.mlp.up_proj.weight`, shape: [c.intermediateSize, c.hiddenSize] };
    yield { name: `${p}.mlp.down_proj.weight`, shape: [c.hiddenSize, c.intermediateSize] };
  }
  yield { name: 'model.norm.weight', shape: [c.hiddenSize] };
  if (!c.tieWordEmbeddings) yield { name: 'lm_head.weight', shape: [c.vocabSize, c.hiddenSize] };
}

/**
 * Picks the tensors the configuration calls for and checks their shapes; what it does not call for becomes a problem.
 *
 * @param tied what the configuration says of the head; null where it says nothing and its absence decides. Sets
 *   `config.tieWordEmbeddings`.
 * @throws FiligreeError `model_invalid` naming the first tensors that are missing or of another shape
 */
export function selectTensors(
  config: ModelConfig,
  tied: boolean | null,
  found: TensorEntry[],
  problems: string[],
): TensorEntry[] {
  const byName = new Map<string, TensorEntry>();
  for (const entry of found) {
    const name = canonicalName(entry.name);
    if (byName.has(name)) throw invalid(`tensor ${name} is there twice`);
    byName.set(name, name === entry.name ? entry : { ...entry, name });
  }
  if (config.numLayers > byName.size) {
    throw invalid(
      `the configuration claims ${config.numLayers} layers, the files hold ${byName.size} tensors in all`,
    );
  }
  const hasHead = byName.has('lm_head.weight');
  config.tieWordEmbeddings = tied ?? !hasHead;
  if (tied === false && !hasHead) {
    throw invalid(
      'the configuration says tie_word_embeddings is false, but the files hold no lm_head.weight',
    );
  }
  if (tied === true && hasHead)
    problems.push('lm_head.weight is stored but not used: tie_word_embeddings is true');
  const selected: TensorEntry[] = [];
  const missing: string[] = [];
  for (const { name, shape } of expectedTensors(config)) {
    const entry = byName.get(name);
    if (entry === undefined) {
      missing.push(name);
      continue;
    }
    byName.delete(name);
    if (entry.shape.length !== shape.length || entry.shape.some((d, i) => d !== shape[i])) {
      throw invalid(`tensor ${name} has shape [${entry.shape}], the configuration calls for [${shape}]`);
    }
    selected.push(entry);
  }
  if (missing.length > 0) {
    throw invalid(
      `${missing.length} tensors are missing: ${list(missing)}; the download is incomplete or config.json belongs to another model`,
    );
  }
  byName.delete('lm_head.weight');
  const unused = [...byName.keys()].filter((name) => !/rotary_emb\.inv_freq$/.test(name));
  const bias = unused.find((name) => /(o_proj|gate_proj|up_proj|down_proj)\.bias$/.test(name));
  if (bias !== undefined && config.qkvBias && config.architecture !== 'qwen2') {
    throw unsupported(
      `tensor ${bias}: biases outside the query, key and value projections are not supported`,
    );
  }
  if (unused.length > 0) problems.push(`${unused.length} tensors are not used: ${list(unused)}`);
  return selected;
}

const list = (names: string[]) => names.slice(0, 4).join(', ') + (names.length > 4 ? ', …' : '');

/** A checkpoint of the bare model has no `model.` in front. */
function canonicalName(name: string): string {
  return /^(layers\.|embed_tokens\.|norm\.)/.test(name) ? `model.${name}` : name;
}

const FOUR_BIT = new Set(['q4_0', 'q4_1', 'q4_k', 'q5_0', 'q5_1', 'q5_k']);

/** The precision that most weights of the layers have. */
export function sourceClass(tensors: TensorEntry[]): ModelManifest['sourceClass'] {
  const weights = { float: 0, '8bit': 0, '4bit': 0 };
  for (const t of tensors) {
    if (t.shape.length !== 2 || !t.name.startsWith('model.layers.')) continue;
    const elements = (t.shape[0] as number) * (t.shape[1] as number);
    if (t.encoding.endsWith('quantized')) weights[(t.bits ?? 8) <= 5 ? '4bit' : '8bit'] += elements;
    else if (FOUR_BIT.has(t.encoding)) weights['4bit'] += elements;
    else if (t.encoding === 'q8_0' || t.encoding === 'q6_k') weights['8bit'] += elements;
    else weights.float += elements;
  }
  return (Object.entries(weights) as [ModelManifest['sourceClass'], number][]).reduce((a, b) =>
    b[1] > a[1] ? b : a,
  )[0];
}
