import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseBytes } from '../config.js';

/** `--lora name=path`. */
export interface AdapterChoice {
  name: string;
  path: string;
}

/** A parser of `--lora`, which may be given several times. */
export function adapters(text: string, before: readonly AdapterChoice[] | undefined): AdapterChoice[] {
  const [, name, path] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
  if (name === undefined || path === undefined)
    throw new InvalidArgumentError('A name and a folder, such as my-adapter=./adapter.');
  if (before?.some((other) => other.name === name))
    throw new InvalidArgumentError(`Two adapters are called ${name}.`);
  return [...(before ?? []), { name, path }];
}

/** Flags that the commands which load a model share. */
export interface ModelOptions {
  device: 'auto' | 'cpu' | 'cuda';
  weights: 'auto' | 'f32' | 'bf16' | 'i8' | 'i4';
  dense?: boolean;
  kv: 'f32' | 'f16' | 'bf16' | 'i8' | 'fp8';
  threads?: number;
  isa?: string;
  deterministic?: boolean;
  maxModelLen?: number;
  kvMemory?: number;
  tensorParallel?: number;
  packedCache: boolean;
  /** `serve` alone: LoRA adapters over the model. */
  lora?: readonly AdapterChoice[];
  /** `serve` alone: what messages spell counts as control tokens. */
  trustSpecialTokens?: boolean;
}

/** What commands say of the model they take. */
export const MODEL = 'a folder, a .gguf file or a name; left out: the embedded default';

/** A parser for commander, of a flag that may be given several times. */
export const many = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

/** The same where one may also list several, separated by commas. */
export const listOf = (value: string, before: string[] | undefined): string[] => [
  ...(before ?? []),
  ...value.split(','),
];

/** A parser for commander: whole numbers in a range. */
export function whole(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isInteger(value) || value < least || value > most)
      throw new InvalidArgumentError(
        most === Number.MAX_SAFE_INTEGER
          ? `A whole number from ${least} on.`
          : `A whole number from ${least} to ${most}.`,
      );
    return value;
  };
}

export function decimal(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= least && value <= most))
      throw new InvalidArgumentError(`A number from ${least} to ${most}.`);
    return value;
  };
}

export const bytes = (text: string): number => {
  try {
    return parseBytes('', text);
  } catch {
    throw new InvalidArgumentError('Bytes, such as 8GiB or 512MiB.');
  }
};

export function withModelOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--device <name>', 'where the layers are computed; auto takes a GPU that can be used')
        .choices(['auto', 'cpu', 'cuda'])
        .default('auto'),
    )
    .addOption(
      new Option('--weights <format>', "what the weights become in memory; auto keeps the checkpoint's class")
        .choices(['auto', 'f32', 'bf16', 'i8', 'i4'])
        .default('auto'),
    )
    .option('--dense', 'store sparse matrices dense')
    .addOption(
      new Option('--kv <type>', 'storage of the KV cache; on a GPU not f32, on the CPU not fp8')
        .choices(['f32', 'f16', 'bf16', 'i8', 'fp8'])
        .default('f16'),
    )
    .option('--threads <n>', 'threads; default: min(affinity, floor of the cgroup quota)', whole(1, 1024))
    .option('--isa <name>', 'instruction set, instead of the best there is (also FILIGREE_ISA)')
    .option(
      '--deterministic',
      'on a GPU: no answer depends on what is computed beside it (slower; on the CPU none ever does)',
    )
    .option('--tensor-parallel <n>', 'GPUs that share the model', whole(1, 64))
    .option(
      '--max-model-len <n>',
      'longest sequence; default: what the model and the KV memory allow',
      whole(1),
    )
    .option(
      '--kv-memory <bytes>',
      'KV cache; default: from what the machine, its cgroup or the GPU leaves',
      bytes,
    )
    .option('--no-packed-cache', 'neither read nor write packed weights on disk');
}
