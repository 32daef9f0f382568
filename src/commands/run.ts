import type { Command } from 'commander';
import { decimal, MODEL, whole, withModelOptions } from '../cli/options.js';

/** Flags and examples of `run`: one answer, or a conversation. */
export function addRun(program: Command): void {
  withModelOptions(
    program
      .command('run')
      .argument('[MODEL]', MODEL)
      .argument('[PROMPT]', 'what to say; left out: piped input, or a conversation'),
  )
    .description('chat with a model in the terminal')
    .option('--system <text>', 'system message')
    .option('--max-tokens <n>', 'longest answer', whole(1))
    .option(
      '--temperature <t>',
      "0 always takes the most likely token (default: the model's, or 0.7)",
      decimal(0, 2),
    )
    .option('--top-p <p>', "nucleus (default: the model's, or 0.95)", decimal(0, 1))
    .option('--seed <n>', 'the same seed gives the same answer', whole(0))
    .option('--json', 'one object with the text, the usage and the timings')
    .addHelpText(
      'after',
      `
A single argument with spaces in it is the PROMPT of the default model.

Examples:
  $ filigree run
  $ filigree run "Name three rivers."
  $ filigree run ./my-model "Name three rivers." --temperature 0 --json
  $ git diff | filigree run ./my-model`,
    )
    .action(async (model, prompt, options) =>
      (await import('../cli/run.js')).runCommand(model, prompt, options),
    );
}
