import { createHash } from 'node:crypto';
import { groupTensors } from '../model/compressed-tensors.js';
import { openModel, resolveModel } from '../model/index.js';
import type { ModelManifest } from '../model/manifest.js';
import { ReadableFile } from '../model/model-file.js';
import { readSafetensors } from '../model/safetensors.js';
import {
  Compression,
  type FloatChoice,
  type MatrixReport,
  type NativeLayerOptions,
  nativeInfo,
  type PassPrecision,
  type TokenWindows,
} from '../native/index.js';
import { Tokenizer } from '../tokenizer/index.js';
import { allocate } from './allocation.js';
import { readWindows } from './calibration.js';
import { folderFiles } from './hf-writer.js';
import { KnownPerplexity } from './known-perplexity.js';
import { modelCard, recipeYaml } from './model-card.js';
import { needsCalibration, parsePattern, type Recipe } from './options.js';
import { pending } from './safetensors-writer.js';
import { WorkFolder } from './work-folder.js';

/** Matrices of a layer, in the order of the native options. */
export const MATRICES = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
] as const;

export interface CompressOptions {
  recipe: Recipe;
  out: string;
  resume: boolean;
  force: boolean;
  threads?: number | undefined;
  isa?: string | undefined;
  /** Bytes to stay within beside what one layer takes. */
  memory?: number | undefined;
  /** Where the run is: share of the whole, and a few words. */
  onProgress?: (share: number, stage: string) => void;
  onNote?: (note: string) => void;
}

export interface CompressReport {
  model: string;
  out: string;
  recipe: Recipe;
  bytes: number;
  dense_bf16_bytes: number;
  /** Zeros of the pruned matrices together. */
  sparsity: number;
  perplexity: { before: number; after: number; tokens: number } | null;
  matrices: {
    name: string;
    zeros: number;
    relative_error: number | null;
    relative_error_pruned: number | null;
    damping: number;
    dead_columns: number;
    seconds: number;
  }[];
  calibration: { windows: number; length: number } | null;
  notes: string[];
  minutes: number;
  peak_memory_bytes: number;
}

const BITS = { none: 0, i8: 8, i4: 4 } as const;

/**
 * Makes a sparse, quantized model out of another, layer by layer, and writes it as a Hugging Face folder.
 *
 * @throws FiligreeError saying what is wrong with the model, the recipe, the text or the disk
 */
export async function compress(manifest: ModelManifest, options: CompressOptions): Promise<CompressReport> {
  const { recipe } = options;
  const started = performance.now();
  const notes: string[] = [];
  const note = (text: string | null) => {
    if (text === null) return;
    notes.push(text);
    options.onNote?.(text);
  };
  const { calibration, heldOut } = await readTexts(manifest, recipe, note);
  const precision = await passPrecision(recipe, options.isa);
  const known = heldOut && new KnownPerplexity(manifest.sourceKey, heldOut, precision);
  const before = known?.read() ?? null;
  const mask = recipe.mask === null ? null : await openModel(await resolveModel(recipe.mask));
  const work = WorkFolder.open(
    options.out,
    fingerprint([manifest.sourceKey, recipe, precision, mask?.sourceKey], calibration, heldOut),
    options,
  );
  const { numLayers, tieWordEmbeddings } = manifest.config;
  const dtype = floatType(manifest, recipe);
  const open = () =>
    Compression.open(manifest, {
      precision,
      memory: options.memory ?? 0,
      spillFolder: work.path,
      threads: options.threads,
      isa: options.isa,
      ...(calibration && { calibration }),
      ...(heldOut && { heldOut, judgeOriginal: before === null }),
      ...(mask && { mask }),
    });
  const layerOptions = nativeOptions(recipe, dtype);
  const skip = skipper(recipe);

  if (recipe.allocation !== 'uniform' && work.state.allocation === null) {
    const probing = await open();
    try {
      work.state.allocation = await allocate(probing, manifest.config, recipe, layerOptions, (share) =>
        options.onProgress?.(0, `measuring layers, ${Math.round(100 * share)} %`),
      );
      work.save();
    } finally {
      await probing.close();
    }
  }

  const session = await open();
  let perplexity: CompressReport['perplexity'] = null;
  try {
    // A bound below what one layer needs cannot be kept; everything beside it can be spilled.
    if (options.memory !== undefined && session.layerBytes > options.memory)
      note(
        `one layer needs about ${mib(session.layerBytes)} MiB, more than --memory; hidden states are spilled to the disk`,
      );
    const vocabulary = {
      bits: BITS[recipe.embeddings],
      group: recipe.group,
      rounding: recipe.rounding,
      dtype,
    };
    const names = ['model.embed_tokens.weight', ...(tieWordEmbeddings ? [] : ['lm_head.weight'])];
    const tensors = [];
    // Also where an earlier run wrote them: the session has to know how the embedding is rounded.
    for (const name of names)
      tensors.push(...(await session.vocabulary(name, skip(name) ? { ...vocabulary, bits: 0 } : vocabulary)));
    if (!work.state.parts.includes('vocabulary'))
      work.add('vocabulary', pending([...tensors, ...(await session.finalNorm())]), []);
    tensors.length = 0;
    for (let layer = 0; layer < numLayers; layer++) {
      const part = `layer-${String(layer).padStart(5, '0')}`;
      const at = (share: number, stage: string) =>
        options.onProgress?.((layer + share) / numLayers, `layer ${layer + 1} of ${numLayers}, ${stage}`);
      if (work.state.parts.includes(part)) {
        at(0, 'finished earlier');
        await restore(session, work, part);
        continue;
      }
      const done = await session.layer(
        {
          ...layerOptions,
          sparsity: work.state.allocation?.[layer] ?? layerOptions.sparsity,
          skip: MATRICES.map((matrix) => skip(`model.layers.${layer}.${matrix}.weight`)),
        },
        (stage, share) => at(stageShare(stage, share), stage),
      );
      work.add(part, pending(done.tensors), done.reports);
    }
    const measured = await session.perplexity();
    if (measured.tokens > 0) {
      perplexity = { ...measured, before: before ?? measured.before };
      if (before === null) known?.write(measured.before);
    }
  } finally {
    await session.close();
  }

  const { reports } = work.state;
  const pruned = reports.filter((r) => !skip(r.name));
  const sparsity =
    pruned.reduce((sum, r) => sum + r.zeros, 0) /
    Math.max(
      1,
      pruned.reduce((sum, r) => sum + r.rows * r.cols, 0),
    );
  for (const r of reports) note(oddity(r, recipe));
  const parameters = manifest.tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0);
  const summary = { manifest, recipe, sparsity, perplexity, reports, parameters };
  const files = folderFiles(manifest, { f32: 'float32', f16: 'float16', bf16: 'bfloat16' }[dtype], {
    recipe,
    sparsity,
    skipped: reports.filter((r) => skip(r.name)).map((r) => r.name.replace(/\.weight$/, '')),
  });
  const withCard = new Map([
    ['README.md', modelCard(summary)],
    ['recipe.yaml', recipeYaml(recipe)],
    ...files,
  ]);
  const bytes = work.finish(withCard);
  return {
    model: manifest.name,
    out: options.out,
    recipe,
    bytes,
    dense_bf16_bytes: 2 * parameters,
    sparsity,
    perplexity,
    matrices: reports.map((r) => ({
      name: r.name,
      zeros: r.zeros / (r.rows * r.cols),
      relative_error: r.error,
      relative_error_pruned: r.errorPruned,
      damping: r.damping,
      dead_columns: r.dead,
      seconds: r.seconds,
    })),
    calibration: calibration && {
      windows: calibration.ids.length / calibration.length,
      length: calibration.length,
    },
    notes,
    minutes: (performance.now() - started) / 60_000,
    peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
  };
}

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20);

/** Rough shares of a layer's time, for the bar: where a stage begins, and how much of the layer it is. */
const STAGES: Record<string, [from: number, part: number]> = {
  statistics: [0, 0.3],
  'held-out': [0.3, 0.1],
  'through the compressed layer': [0.65, 0.2],
  'held-out, compressed': [0.85, 0.15],
};

function stageShare(stage: string, share: number): number {
  const [from, part] = STAGES[stage] ?? [0.4, 0.25];
  return from + part * share;
}

async function readTexts(manifest: ModelManifest, recipe: Recipe, note: (text: string | null) => void) {
  const wanted = { calibration: needsCalibration(recipe), heldOut: recipe.heldOut !== 'none' };
  if (!wanted.calibration && !wanted.heldOut) return { calibration: null, heldOut: null };
  const tokenizer = Tokenizer.create(manifest.tokenizer);
  const longest = manifest.config.maxPositionEmbeddings;
  const read = async (heldOut: boolean): Promise<TokenWindows> => {
    const request = heldOut
      ? { source: recipe.heldOut, count: recipe.heldOutSamples, length: recipe.heldOutLength, heldOut }
      : { source: recipe.calibration, count: recipe.samples, length: recipe.length, heldOut };
    const { windows, note: text } = await readWindows(request, tokenizer, longest);
    note(text);
    return windows;
  };
  return {
    calibration: wanted.calibration ? await read(false) : null,
    heldOut: wanted.heldOut ? await read(true) : null,
  };
}

const X86_LEVELS = ['avx2', 'avxvnni', 'avx512', 'avx512vnni', 'avx512bf16', 'amx'];

async function passPrecision(recipe: Recipe, isa: string | undefined): Promise<PassPrecision> {
  if (recipe.precision !== 'auto') return recipe.precision;
  const forced = isa ?? process.env.FILIGREE_ISA ?? 'auto';
  const { kernels } = await nativeInfo();
  const level =
    forced === 'auto'
      ? X86_LEVELS.findLast((name) => kernels.some((k) => k.isa === name && k.supported))
      : forced;
  // Products of 16 bits outrun f32 wherever there is an instruction for them; AVX-512 without VNNI has wider ones for f32.
  return level !== undefined && X86_LEVELS.includes(level) && level !== 'avx512' ? 'i16' : 'f32';
}

function fingerprint(facts: unknown[], ...windows: (TokenWindows | null)[]): string {
  const hash = createHash('sha256').update(JSON.stringify(['filigree-compress-3', ...facts]));
  for (const w of windows)
    hash.update(w === null ? 'none' : Buffer.from(w.ids.buffer, w.ids.byteOffset, w.ids.byteLength));
  return hash.digest('hex');
}

function floatType(manifest: ModelManifest, recipe: Recipe): FloatChoice {
  if (recipe.dtype !== 'auto') return recipe.dtype;
  const half = manifest.tensors.some((t) =>
    Object.values(t.parts).some((p) => p.dtype === 'f16' && p.shape.length > 0),
  );
  const floating = manifest.sourceClass === 'float';
  return floating && half ? 'f16' : 'bf16';
}

function skipper(recipe: Recipe): (name: string) => boolean {
  const pattern = recipe.skip === null ? null : new RegExp(recipe.skip);
  return (name) => pattern?.test(name) ?? false;
}

function nativeOptions(recipe: Recipe, dtype: FloatChoice): NativeLayerOptions {
  return {
    ...parsePattern(recipe.pattern),
    solver: recipe.solver,
    sparsity: MATRICES.map(() => (recipe.keepMask ? 0 : recipe.sparsity)),
    skip: MATRICES.map(() => false),
    keepMask: recipe.keepMask,
    damping: recipe.damping,
    bits: BITS[recipe.quantize],
    group: recipe.group,
    rounding: recipe.rounding,
    smooth: recipe.smooth,
    dtype,
  };
}

async function restore(session: Compression, work: WorkFolder, part: string): Promise<void> {
  const file = ReadableFile.open(work.read(part).path);
  try {
    const { tensors } = readSafetensors(file, 0);
    const entries = groupTensors(tensors, { bits: null, groupSize: null }, [file], []);
    await session.restore(entries, [file.info.path]);
  } finally {
    file.close();
  }
}

/** What a reader of the report should know of a matrix. */
function oddity(r: MatrixReport, recipe: Recipe): string | null {
  const parts: string[] = [];
  if (r.dead > 0)
    parts.push(`${r.dead} of its ${r.cols} input columns are always zero; their weights are pruned`);
  if (r.damping > recipe.damping * 1.0001)
    parts.push(
      `its Hessian is not positive definite; the dampening was raised to ${r.damping.toPrecision(3)}`,
    );
  if (r.zeros === r.rows * r.cols) parts.push('all of its weights are zero');
  return parts.length === 0 ? null : `${r.name}: ${parts.join('; ')}`;
}
