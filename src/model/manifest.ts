/**
 * What a model is, whatever it was read from: one manifest of configuration, tensors, tokenizer and template.
 *
 * A manifest holds positions, never weights: native code reads the bytes at (file, offset) itself and checks
 * every one of these numbers again.
 */

import type { GenerationDefaults } from './generation-defaults.js';

export type Architecture = 'llama' | 'mistral' | 'qwen2';

export interface RopeScaling {
  kind: 'none' | 'linear' | 'dynamic' | 'llama3' | 'yarn' | 'longrope';
  /** Context extension factor; 1 where `kind` is none. */
  factor: number;
  lowFreqFactor?: number;
  highFreqFactor?: number;
  originalMaxPosition?: number;
  attentionFactor?: number;
  betaFast?: number;
  betaSlow?: number;
  /**
   * longrope: divisors of the inverse frequencies, headDim / 2 of them, for prompts up to (short) and beyond (long)
   * originalMaxPosition. A GGUF `rope_freqs` tensor arrives here as both, with kind longrope and attentionFactor 1.
   */
  shortFactor?: number[];
  longFactor?: number[];
}

export interface ModelConfig {
  architecture: Architecture;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  vocabSize: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling: RopeScaling;
  /** Positions a query may look back, itself included; null is all. */
  slidingWindow: number | null;
  /** True where there is no lm_head.weight and the embedding serves as the head. */
  tieWordEmbeddings: boolean;
  qkvBias: boolean;
  bosTokenId: number | null;
  eosTokenIds: number[];
}

/** A contiguous range of one of the manifest's files. */
export interface TensorPart {
  /** Index into ModelManifest.files. */
  file: number;
  offset: number;
  bytes: number;
  /** f32 f16 bf16 f64 i8 u8 i16 i32 i64 (lower case), or a GGUF block type. */
  dtype: string;
  shape: number[];
}

/** How a tensor's values are encoded in its parts; native/formats/tensor_source.h describes each. */
export type Encoding =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'q8_0'
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q4_k'
  | 'q5_k'
  | 'q6_k'
  | 'bitmask'
  | 'sparse-24-bitmask'
  | 'sparse-24-bitmask+int-quantized'
  | 'int-quantized'
  | 'pack-quantized'
  | 'bitmask+int-quantized'
  | 'bitmask+pack-quantized'
  | 'random';

export interface TensorEntry {
  /** Canonical Hugging Face name, e.g. model.layers.0.self_attn.q_proj.weight. */
  name: string;
  /** [rows, columns] of a matrix (output features first), [n] of a vector. */
  shape: number[];
  encoding: Encoding;
  parts: Record<string, TensorPart>;
  /** Columns that share a scale; 0 or absent: one scale a row (or a tensor). */
  groupSize?: number;
  symmetric?: boolean;
  /** Bits of one code of a quantized encoding. */
  bits?: number;
  /** GGUF stores q and k rows of Llama interleaved for its own rotation: this many heads are to be un-permuted. */
  permutedHeads?: number;
  /** encoding random (benchmarks of a shape): the seed of the values and the fraction of zeros. */
  random?: { seed: number; zeros: number };
}

export interface TokenizerConfig {
  bosToken: string | null;
  eosToken: string | null;
  unkToken: string | null;
  padToken: string | null;
  addBos: boolean;
  addEos: boolean;
  /** As tokenizer_config.json has it: decode tidies spaces before punctuation. */
  cleanUpTokenizationSpaces: boolean;
}

export interface TokenizerSource {
  /** The structure of a Hugging Face tokenizer.json: read, or synthesized from GGUF metadata or a sentencepiece model. */
  tokenizerJson: Record<string, unknown>;
  config: TokenizerConfig;
  /** tokenizer_config.json as found; {} where there is none. */
  tokenizerConfigJson: Record<string, unknown>;
  /** Where it came from, for `inspect`. */
  origin: 'tokenizer.json' | 'gguf' | 'sentencepiece';
}

export interface ModelFile {
  path: string;
  size: number;
  mtimeMs: number;
}

export interface ModelManifest {
  name: string;
  /** The folder or the .gguf file. */
  path: string;
  config: ModelConfig;
  files: ModelFile[];
  tensors: TensorEntry[];
  tokenizer: TokenizerSource;
  chatTemplate: string | null;
  /** Sampling that the model's authors recommend. */
  generation: GenerationDefaults;
  /** Key of the packed cache: the same bytes give the same key wherever they lie (see source-key.ts). */
  sourceKey: string;
  /** The checkpoint's class of precision, which `--weights auto` keeps. */
  sourceClass: 'float' | '8bit' | '4bit';
  /** Oddities that do not prevent the model from running. */
  problems: string[];
}
