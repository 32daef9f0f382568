import type { Fields } from './fields.js';
import type { RopeScaling } from './manifest.js';
import { invalid, unsupported } from './model-file.js';

export const NO_SCALING: RopeScaling = { kind: 'none', factor: 1 };

export interface Rope {
  theta: number;
  scaling: RopeScaling;
}

const MAX_POSITIONS = 2 ** 28;

/**
 * theta and scaling out of a config.json: `rope_theta` beside `rope_scaling` (whose kind is `rope_type` or the older
 * `type`), or both in `rope_parameters` as transformers 5 writes them, possibly one object per layer type.
 */
export function readRope(config: Fields, headDim: number, maxPositions: number): Rope {
  let scaling = config.child('rope_parameters') ?? config.child('rope_scaling');
  const perLayerType = scaling?.child('full_attention') ?? null;
  if (perLayerType !== null) {
    if (scaling?.has('sliding_attention')) {
      throw unsupported(`${config.where}: rotary parameters that differ between layers are not supported`);
    }
    scaling = perLayerType;
  }
  const theta = (scaling?.has('rope_theta') ? scaling : config).number('rope_theta', 1, 1e15, 10_000);
  for (const source of [config, scaling]) {
    if (source?.has('partial_rotary_factor') && source.number('partial_rotary_factor', 0, 1) !== 1) {
      throw unsupported(`${source.where}: partial_rotary_factor other than 1 is not supported`);
    }
  }
  if (scaling === null) return { theta, scaling: NO_SCALING };
  return { theta, scaling: readScaling(scaling, config, headDim, maxPositions) };
}

function readScaling(s: Fields, config: Fields, headDim: number, maxPositions: number): RopeScaling {
  const kind = s.string('rope_type', s.string('type', 'default'));
  const factor = (fallback?: number) => s.number('factor', 1e-3, 1e6, fallback);
  const original = (fallback?: number) =>
    s.has('original_max_position_embeddings')
      ? s.integer('original_max_position_embeddings', 1, MAX_POSITIONS)
      : config.integer('original_max_position_embeddings', 1, MAX_POSITIONS, fallback);
  const attention = (fallback: number) => s.number('attention_factor', 1e-6, 1e6, fallback);
  switch (kind) {
    case 'default':
    case 'none':
      return NO_SCALING;
    case 'linear':
      return { kind: 'linear', factor: factor() };
    case 'dynamic':
      return { kind: 'dynamic', factor: factor(), originalMaxPosition: original(maxPositions) };
    case 'llama3': {
      const lowFreqFactor = s.number('low_freq_factor', 1e-6, 1e6);
      const highFreqFactor = s.number('high_freq_factor', 1e-6, 1e6);
      if (highFreqFactor <= lowFreqFactor)
        throw invalid(`${s.where}: high_freq_factor must be greater than low_freq_factor`);
      return {
        kind: 'llama3',
        factor: factor(),
        lowFreqFactor,
        highFreqFactor,
        originalMaxPosition: original(),
      };
    }
    case 'yarn': {
      if (s.get('truncate') === false)
        throw unsupported(`${s.where}: yarn with truncate false is not supported`);
      const f = factor();
      return {
        kind: 'yarn',
        factor: f,
        originalMaxPosition: original(maxPositions),
        attentionFactor: attention(yarnAttention(s, f)),
        betaFast: s.number('beta_fast', 1e-6, 1e6, 32),
        betaSlow: s.number('beta_slow', 1e-6, 1e6, 1),
      };
    }
    case 'su':
    case 'longrope': {
      const originalMaxPosition = original();
      const f = factor(maxPositions / originalMaxPosition);
      // Phi-3's rule (transformers, _compute_longrope_parameters): sqrt(1 + ln(factor) / ln(original)).
      const derived = f <= 1 ? 1 : Math.sqrt(1 + Math.log(f) / Math.log(originalMaxPosition));
      return {
        kind: 'longrope',
        factor: f,
        originalMaxPosition,
        attentionFactor: attention(derived),
        shortFactor: s.numbers('short_factor', headDim / 2, 1e-6, 1e9),
        longFactor: s.numbers('long_factor', headDim / 2, 1e-6, 1e9),
      };
    }
    default:
      throw unsupported(
        `${s.where}: rotary scaling of kind ${JSON.stringify(kind)} is not supported (linear, dynamic, llama3, yarn and longrope are)`,
      );
  }
}

/** YaRN's attention scale, 0.1 m ln(factor) + 1 (arXiv 2309.00071, eq. 22), with DeepSeek's two multipliers where given. */
function yarnAttention(s: Fields, factor: number): number {
  const scale = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1);
  if (s.has('mscale') && s.has('mscale_all_dim')) {
    return scale(s.number('mscale', 0, 100)) / scale(s.number('mscale_all_dim', 0, 100));
  }
  return scale(1);
}
