#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { addBench } from './commands/bench.js';
import { addCompress } from './commands/compress.js';
import { addDoctor } from './commands/doctor.js';
import { addEval } from './commands/eval.js';
import { addInspect } from './commands/inspect.js';
import { addPull } from './commands/pull.js';
import { addRun } from './commands/run.js';
import { addServe } from './commands/serve.js';
import { packageVersion } from './config.js';
import { FiligreeError } from './errors.js';

/**
 * The command line. How a command is spelled stands in `commands/`, what it does in `cli/`, loaded only when it runs, so
 * that `--help` is instant and `run` does not wait for a web server.
 */
async function main(argv: string[]): Promise<void> {
  const program = new Command('filigree')
    .description('Inference engine and OpenAI-compatible server for sparse, quantized language models')
    .version(packageVersion())
    .exitOverride()
    .enablePositionalOptions()
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'filigree: ')) })
    .addHelpText(
      'after',
      `
Examples:
  $ filigree serve                       serve the embedded model on http://127.0.0.1:8000
  $ filigree run "What is a sparse model?"
  $ filigree inspect ./my-model
  $ filigree bench --shape 1.1b`,
    );

  for (const add of [addServe, addRun, addBench, addEval, addCompress, addPull, addInspect, addDoctor])
    add(program);
  await program.parseAsync(argv);
}

/** One line on what went wrong and what to do; the whole story of our own faults only where asked for. */
function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof FiligreeError) {
    process.stderr.write(`filigree: ${error.message}\n`);
    if (process.env.FILIGREE_DEBUG) process.stderr.write(`${error.stack}\n`);
    return error.info.exit ?? 1;
  }
  const { message, stack } = error as Error;
  process.stderr.write(
    `filigree: internal fault: ${message}. FILIGREE_DEBUG=1 shows where; please report it.\n`,
  );
  if (process.env.FILIGREE_DEBUG) process.stderr.write(`${stack}\n`);
  return 1;
}

// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

main(process.argv).catch((error: unknown) => {
  process.exitCode = explain(error);
});
