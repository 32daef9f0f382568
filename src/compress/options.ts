import { FiligreeError } from '../errors.js';
import type { FloatChoice, PassPrecision, RoundingChoice, SolverChoice } from '../native/index.js';

export type Quantize = 'none' | 'i8' | 'i4';
export type Allocation = 'uniform' | 'owl' | 'sensitivity';

/** What decides the bytes of the output; the keys of a recipe, and of the command line with dashes. */
export interface Recipe {
  /** Share of zeros over all pruned matrices together. */
  sparsity: number;
  /** unstructured, N:M (N of every M kept) or 1xB (runs of B columns). */
  pattern: string;
  solver: SolverChoice;
  allocation: Allocation;
  quantize: Quantize;
  /** Columns that share a scale, i4 only. */
  group: number;
  /** gptq; or to the nearest code, with scales from the largest weight (nearest) or searched as the engine does (search). */
  rounding: RoundingChoice;
  /** Embedding and head. */
  embeddings: Quantize;
  /** SmoothQuant's alpha; 0 is off. */
  smooth: number;
  /** What floating-point weights become; auto: f16 stays, all else is bf16. */
  dtype: 'auto' | FloatChoice;
  /** Keep the zeros that are there and make no others. */
  keepMask: boolean;
  /** With keepMask: a model of the same shape, whose zeros are taken over in place of the model's own. */
  mask: string | null;
  /** Matrices whose name matches stay as they are. */
  skip: string | null;
  damping: number;
  /** A file (text, JSON lines with "text", safetensors with ids) or builtin. */
  calibration: string;
  samples: number;
  length: number;
  /** Text for the perplexity before and after: a file, builtin or none. */
  heldOut: string;
  heldOutSamples: number;
  heldOutLength: number;
  /** Of the calibration passes; auto: i16, block floating point, where that is faster than f32. */
  precision: 'auto' | PassPrecision;
}

export const DEFAULTS: Recipe = {
  sparsity: 0.5,
  pattern: 'unstructured',
  solver: 'alps',
  allocation: 'uniform',
  quantize: 'none',
  group: 32,
  rounding: 'gptq',
  embeddings: 'none',
  smooth: 0,
  dtype: 'auto',
  keepMask: false,
  mask: null,
  skip: null,
  damping: 0.01,
  calibration: 'builtin',
  samples: 128,
  length: 2048,
  heldOut: 'builtin',
  heldOutSamples: 4,
  heldOutLength: 2048,
  precision: 'auto',
};

export interface Pattern {
  keep: number;
  of: number;
  block: number;
}

const usage = (message: string) => new FiligreeError('usage', message);

/** @throws FiligreeError `usage` */
export function parsePattern(text: string): Pattern {
  if (text === 'unstructured') return { keep: 0, of: 0, block: 1 };
  const groups = /^(\d+):(\d+)$/.exec(text);
  if (groups) {
    const [keep, of] = [Number(groups[1]), Number(groups[2])];
    if (keep >= 1 && keep < of && of <= 64 && 128 % of === 0) return { keep, of, block: 1 };
  }
  const block = Number(/^1x(\d+)$/.exec(text)?.[1]);
  if (block >= 2 && block <= 64 && 128 % block === 0) return { keep: 0, of: 0, block };
  throw usage(
    `--pattern ${JSON.stringify(text)} is not known; it is unstructured, N:M with N below M and M a power of two up to 64 (2:4), or 1xB (1x4)`,
  );
}

const CHOICES: { [K in keyof Recipe]?: readonly string[] } = {
  solver: ['none', 'magnitude', 'wanda', 'sparsegpt', 'alps'],
  allocation: ['uniform', 'owl', 'sensitivity'],
  quantize: ['none', 'i8', 'i4'],
  rounding: ['gptq', 'nearest', 'search'],
  embeddings: ['none', 'i8', 'i4'],
  dtype: ['auto', 'f32', 'f16', 'bf16'],
  precision: ['auto', 'f32', 'bf16', 'i16'],
};

const RANGES: { [K in keyof Recipe]?: readonly [number, number, 'whole'?] } = {
  sparsity: [0, 0.99],
  group: [32, 128, 'whole'],
  smooth: [0, 1],
  damping: [1e-6, 1],
  samples: [1, 1_000_000, 'whole'],
  length: [2, 1 << 20, 'whole'],
  heldOutSamples: [1, 1_000_000, 'whole'],
  heldOutLength: [2, 1 << 20, 'whole'],
};

/**
 * Fills what is left out and checks every value, whether it came from the command line or from YAML.
 *
 * @throws FiligreeError `usage` naming the key
 */
export function completeRecipe(given: Partial<Recipe>, where = 'recipe'): Recipe {
  for (const [key, value] of Object.entries(given)) {
    if (!(key in DEFAULTS))
      throw usage(
        `${where}: ${key} is not a key of a recipe; these are: ${Object.keys(DEFAULTS).join(', ')}`,
      );
    const choices = CHOICES[key as keyof Recipe];
    if (choices && !choices.includes(value as string))
      throw usage(`${where}: ${key} must be one of ${choices.join(', ')}, not ${JSON.stringify(value)}`);
    const range = RANGES[key as keyof Recipe];
    const number = value as number;
    if (range && !(typeof value === 'number' && number >= range[0] && number <= range[1]))
      throw usage(`${where}: ${key} must be from ${range[0]} to ${range[1]}, not ${JSON.stringify(value)}`);
    if (range?.[2] && !Number.isInteger(number)) throw usage(`${where}: ${key} must be a whole number`);
    if (!choices && !range) {
      const nullable = DEFAULTS[key as keyof Recipe] === null;
      const expected = nullable ? 'string' : typeof DEFAULTS[key as keyof Recipe];
      if (typeof value !== expected && !(nullable && value === null))
        throw usage(`${where}: ${key} must be a ${expected}, not ${JSON.stringify(value)}`);
    }
  }
  const recipe = { ...DEFAULTS, ...given };
  if (given.embeddings === undefined && recipe.quantize !== 'none') recipe.embeddings = 'i8';
  if (recipe.group !== 32 && recipe.group !== 128) throw usage(`${where}: group must be 32 or 128`);
  const pattern = parsePattern(recipe.pattern);
  // Pruning to N:M decides the share of zeros itself.
  if (pattern.of > 0) recipe.sparsity = 1 - pattern.keep / pattern.of;
  if (recipe.keepMask) {
    recipe.solver = 'none';
    recipe.allocation = 'uniform';
  }
  if (recipe.mask !== null && !recipe.keepMask)
    throw usage(`${where}: mask names a model whose zeros are kept, which needs keepMask`);
  if (recipe.skip !== null) {
    try {
      new RegExp(recipe.skip);
    } catch (error) {
      throw usage(`${where}: skip is no regular expression: ${(error as Error).message}`);
    }
  }
  if (recipe.allocation !== 'uniform' && pattern.of > 0)
    throw usage(`${where}: ${recipe.pattern} fixes the zeros of every row; allocation must be uniform`);
  return recipe;
}

/** Whether any of it looks at the calibration text. */
export function needsCalibration(recipe: Recipe): boolean {
  const prunes = !recipe.keepMask && recipe.sparsity > 0;
  return (
    (prunes && (recipe.solver === 'wanda' || recipe.solver === 'sparsegpt' || recipe.solver === 'alps')) ||
    (recipe.quantize !== 'none' && recipe.rounding === 'gptq') ||
    recipe.smooth > 0 ||
    recipe.allocation !== 'uniform'
  );
}
