import { Fields, type JsonObject } from './fields.js';
import { invalid, unsupported } from './model-file.js';

/** What adapter_config.json of PEFT says of a LoRA adapter. */
export interface AdapterConfig {
  /** The model it was trained on, as it was called there. */
  base: string | null;
  /** Modules by name or by the end of their path; null where a regular expression or a keyword chose them. */
  targets: string[] | null;
  /** Rank and scale of the matrix of a module, such as `model.layers.0.self_attn.q_proj`. */
  of(module: string): { rank: number; scale: number };
}

/** The largest rank that is served, as native/engine/adapter.h has it. */
export const MAX_RANK = 512;

const WHERE = 'adapter_config.json';

/** Switches of PEFT that change the arithmetic to something that is not W + scale · B A. */
const REFUSED: readonly [key: string, what: string][] = [
  ['use_dora', 'DoRA'],
  ['use_qalora', 'QALoRA'],
  ['use_bdlora', 'BD-LoRA'],
  ['lora_bias', 'biases on B (lora_bias)'],
  ['fan_in_fan_out', 'transposed weights (fan_in_fan_out)'],
  ['modules_to_save', 'whole modules beside the low-rank matrices (modules_to_save)'],
  ['trainable_token_indices', 'retrained tokens (trainable_token_indices)'],
  ['target_parameters', 'parameters outside of linear layers (target_parameters)'],
  ['layer_replication', 'replicated layers (layer_replication)'],
  ['alora_invocation_tokens', 'activated LoRA (alora_invocation_tokens)'],
  ['arrow_config', 'Arrow routing (arrow_config)'],
  ['kasa_config', 'KaSA (kasa_config)'],
  ['monteclora_config', 'MonteCLoRA (monteclora_config)'],
];

/** Initializations that leave the base as it is; the others also change W when PEFT loads the adapter. */
const PLAIN_INITIALIZATIONS = ['gaussian', 'eva', 'orthogonal', 'true', 'false'];

const isSet = (value: unknown): boolean =>
  value !== undefined &&
  value !== false &&
  !(typeof value === 'object' && value !== null && Object.keys(value).length === 0);

/**
 * @throws FiligreeError `model_invalid` where a field is missing or out of range, `model_unsupported` naming what this
 *   engine does not compute
 */
export function readAdapterConfig(json: JsonObject): AdapterConfig {
  const fields = new Fields(json, WHERE);
  const kind = fields.string('peft_type');
  if (kind !== 'LORA')
    throw unsupported(`${WHERE}: an adapter of type ${kind.slice(0, 40)} is not served; only LORA is`);
  for (const [key, what] of REFUSED) {
    if (isSet(fields.get(key))) throw unsupported(`${WHERE}: ${what} is not served; only plain LoRA is`);
  }
  const bias = fields.string('bias', 'none');
  if (bias !== 'none')
    throw unsupported(`${WHERE}: bias ${JSON.stringify(bias.slice(0, 40))} is not served; train with "none"`);
  const start = String(fields.get('init_lora_weights') ?? true).toLowerCase();
  if (!PLAIN_INITIALIZATIONS.includes(start))
    throw unsupported(
      `${WHERE}: init_lora_weights ${JSON.stringify(start.slice(0, 40))} also changes the base's weights; ` +
        'save the adapter converted to plain LoRA (path_initial_model_for_weight_conversion)',
    );
  const rank = fields.integer('r', 1, MAX_RANK);
  const alpha = fields.number('lora_alpha', -1e6, 1e6);
  const rslora = fields.boolean('use_rslora', false);
  const ranks = pattern(fields, 'rank_pattern', (child, key) => child.integer(key, 1, MAX_RANK));
  const alphas = pattern(fields, 'alpha_pattern', (child, key) => child.number(key, -1e6, 1e6));
  return {
    base: fields.has('base_model_name_or_path') ? fields.string('base_model_name_or_path') : null,
    targets: readTargets(fields),
    of(module) {
      const r = ranks(module) ?? rank;
      return { rank: r, scale: (alphas(module) ?? alpha) / (rslora ? Math.sqrt(r) : r) };
    },
  };
}

/** Values by module: the first key that matches the module's path, or its end after a dot, as PEFT has it. */
function pattern(
  fields: Fields,
  name: string,
  read: (child: Fields, key: string) => number,
): (module: string) => number | null {
  const child = fields.child(name);
  const entries = Object.keys(child?.object ?? {}).map((key) => {
    try {
      const matcher = key.startsWith('^') ? new RegExp(key) : new RegExp(`^(?:.*\\.)?(?:${key})$`);
      return { matcher, value: read(child as Fields, key) };
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw invalid(`${WHERE}: ${name}: ${JSON.stringify(key.slice(0, 80))} is no regular expression`, error);
    }
  });
  return (module) => entries.find(({ matcher }) => matcher.test(module))?.value ?? null;
}

function readTargets(fields: Fields): string[] | null {
  const value = fields.get('target_modules');
  if (value === undefined || typeof value === 'string') return null;
  if (!Array.isArray(value) || !value.every((name) => typeof name === 'string'))
    throw invalid(`${WHERE}: target_modules must be a string or a list of strings`);
  return value;
}
