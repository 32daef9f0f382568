import type { JsonObject } from './fields.js';

/** Sampling that a model's authors recommend: what holds where a request says nothing. Left out: they do not say. */
export interface GenerationDefaults {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
}

interface Field {
  name: keyof GenerationDefaults;
  /** Key of generation_config.json. */
  hf: string;
  /** Key of GGUF metadata, after `general.sampling.`. */
  gguf: string;
  integer?: true;
  min: number;
  max: number;
}

// The bounds of the same parameters in a request. A top-k of 0 or -1 takes every token.
const FIELDS: readonly Field[] = [
  { name: 'temperature', hf: 'temperature', gguf: 'temp', min: 0, max: 2 },
  { name: 'topK', hf: 'top_k', gguf: 'top_k', integer: true, min: -1, max: 2 ** 31 - 1 },
  { name: 'topP', hf: 'top_p', gguf: 'top_p', min: 0, max: 1 },
  { name: 'minP', hf: 'min_p', gguf: 'min_p', min: 0, max: 1 },
  { name: 'repetitionPenalty', hf: 'repetition_penalty', gguf: 'penalty_repeat', min: 1e-6, max: 100 },
];

function read(
  value: (field: Field) => unknown,
  where: (field: Field) => string,
  problems: string[],
): GenerationDefaults {
  const defaults: GenerationDefaults = {};
  for (const field of FIELDS) {
    const found = value(field);
    if (found === undefined || found === null) continue;
    const good =
      typeof found === 'number' &&
      found >= field.min &&
      found <= field.max &&
      (!field.integer || Number.isInteger(found));
    if (good) defaults[field.name] = found;
    else
      problems.push(
        `${where(field)} must be ${field.integer ? 'an integer' : 'a number'} from ${field.min} to ${field.max} and was ignored`,
      );
  }
  return defaults;
}

/** What generation_config.json recommends, as vLLM takes it; a value out of range is a problem, not an error. */
export function readGenerationConfig(json: JsonObject | null, problems: string[]): GenerationDefaults {
  if (json === null) return {};
  // Without sampling the other fields are leftovers of transformers' own defaults.
  if (json.do_sample === false) return {};
  return read(
    ({ hf }) => json[hf],
    ({ hf }) => `generation_config.json: ${hf}`,
    problems,
  );
}

/** The same from a GGUF's `general.sampling.*`, as llama.cpp's converters write it. Numbers there were rounded to f32. */
export function readGgufSampling(
  metadata: ReadonlyMap<string, unknown>,
  problems: string[],
): GenerationDefaults {
  const plain = (value: unknown) =>
    typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(7)) : value;
  return read(
    ({ gguf }) => plain(metadata.get(`general.sampling.${gguf}`)),
    ({ gguf }) => `general.sampling.${gguf}`,
    problems,
  );
}
