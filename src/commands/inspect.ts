import type { Command } from 'commander';
import { MODEL } from '../cli/options.js';

/** Flags and examples of `inspect`: what a model is. */
export function addInspect(program: Command): void {
  program
    .command('inspect')
    .argument('[MODEL]', MODEL)
    .description('what a model is: tensors, formats, zeros per matrix, template, problems')
    .option('--tensors', 'list every tensor')
    .option('--no-zeros', 'do not count zeros, which reads the whole model')
    .option('--json', 'one object')
    .addHelpText('after', '\nExample:\n  $ filigree inspect ./my-model --tensors')
    .action(async (model, options) => (await import('../cli/inspect.js')).inspectCommand(model, options));
}
