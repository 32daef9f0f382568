import { FiligreeError } from '../src/errors.js';
import type { ModelConfig, ModelManifest, TensorEntry } from '../src/model/manifest.js';

/** Layer shapes of well-known models, so that anyone sees the speed without a checkpoint. */
const SHAPES: Record<string, Partial<ModelConfig>> = {
  '135m': {
    hiddenSize: 576,
    intermediateSize: 1536,
    numLayers: 30,
    numHeads: 9,
    numKvHeads: 3,
    headDim: 64,
    vocabSize: 49152,
    tieWordEmbeddings: true,
  },
  '1.1b': {
    hiddenSize: 2048,
    intermediateSize: 5632,
    numLayers: 22,
    numHeads: 32,
    numKvHeads: 4,
    headDim: 64,
    vocabSize: 32000,
  },
  '7b': {
    hiddenSize: 4096,
    intermediateSize: 11008,
    numLayers: 32,
    numHeads: 32,
    numKvHeads: 32,
    headDim: 128,
    vocabSize: 32000,
  },
  '8b': {
    hiddenSize: 4096,
    intermediateSize: 14336,
    numLayers: 32,
    numHeads: 32,
    numKvHeads: 8,
    headDim: 128,
    vocabSize: 128256,
  },
};

export const shapeNames = Object.keys(SHAPES);

/**
 * A manifest of random weights: every linear matrix has `zeros` of its elements zero (independently drawn), embedding
 * and head are dense. The values are drawn natively at load, row by row from `seed`, so nothing is written to disk.
 */
export function randomModel(shape: string, zeros: number, seed = 1): ModelManifest {
  const known = SHAPES[shape];
  if (!known)
    throw new FiligreeError('usage', `no shape is called '${shape}'; there are ${shapeNames.join(', ')}`);
  const config: ModelConfig = {
    architecture: 'llama',
    hiddenSize: 0,
    intermediateSize: 0,
    numLayers: 0,
    numHeads: 0,
    numKvHeads: 0,
    headDim: 0,
    vocabSize: 0,
    maxPositionEmbeddings: 8192,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    ropeScaling: { kind: 'none', factor: 1 },
    slidingWindow: null,
    tieWordEmbeddings: false,
    qkvBias: false,
    bosTokenId: 1,
    eosTokenIds: [2],
    ...known,
  };
  const tensors: TensorEntry[] = [];
  const add = (name: string, tensorShape: number[], fraction: number) => {
    tensors.push({
      name,
      shape: tensorShape,
      encoding: 'random',
      parts: {},
      random: { seed: seed * 1_000_003 + tensors.length, zeros: fraction },
    });
  };
  const { hiddenSize: h, intermediateSize: f, headDim, numHeads, numKvHeads, vocabSize } = config;
  add('model.embed_tokens.weight', [vocabSize, h], 0);
  for (let layer = 0; layer < config.numLayers; ++layer) {
    const at = `model.layers.${layer}`;
    add(`${at}.input_layernorm.weight`, [h], 0);
    add(`${at}.self_attn.q_proj.weight`, [numHeads * headDim, h], zeros);
    add(`${at}.self_attn.k_proj.weight`, [numKvHeads * headDim, h], zeros);
    add(`${at}.self_attn.v_proj.weight`, [numKvHeads * headDim, h], zeros);
    add(`${at}.self_attn.o_proj.weight`, [h, numHeads * headDim], zeros);
    add(`${at}.post_attention_layernorm.weight`, [h], 0);
    add(`${at}.mlp.gate_proj.weight`, [f, h], zeros);
    add(`${at}.mlp.up_proj.weight`, [f, h], zeros);
    add(`${at}.mlp.down_proj.weight`, [h, f], zeros);
  }
  add('model.norm.weight', [h], 0);
  if (!config.tieWordEmbeddings) add('lm_head.weight', [vocabSize, h], 0);
  return {
    name: `${shape} shape, random, ${Math.round(zeros * 100)} % zeros`,
    path: `random:${shape}`,
    config,
    files: [],
    tensors,
    tokenizer: {
      tokenizerJson: {},
      config: {
        bosToken: null,
        eosToken: null,
        unkToken: null,
        padToken: null,
        addBos: false,
        addEos: false,
        cleanUpTokenizationSpaces: false,
      },
      tokenizerConfigJson: {},
      origin: 'tokenizer.json',
    },
    chatTemplate: null,
    generation: {},
    sourceKey: `random-${shape}-${zeros}-${seed}`,
    sourceClass: 'float',
    problems: [],
  };
}
