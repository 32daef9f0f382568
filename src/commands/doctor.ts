import type { Command } from 'commander';

/** Flags and examples of `doctor`: what this machine can do. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('what this machine can do, which kernels will be used, and what is missing')
    .option('--no-measure', 'skip the bandwidth measurement')
    .option('--json', 'one object')
    .addHelpText('after', '\nExample:\n  $ filigree doctor')
    .action(async (options) => (await import('../cli/doctor.js')).doctorCommand(options));
}
