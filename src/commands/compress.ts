import type { Command } from 'commander';
import { bytes, decimal, MODEL, whole } from '../cli/options.js';

/** Flags and examples of `compress`: a sparse, quantized model out of another. */
export function addCompress(program: Command): void {
  program
    .command('compress')
    .argument('[MODEL]', MODEL)
    .description('make a sparse, quantized model out of another, layer by layer')
    .requiredOption('-o, --output <folder>', 'where the new model goes')
    .option('--sparsity <share>', "zeros of the layers' matrices (0.5)", decimal(0, 0.99))
    .option('--pattern <pattern>', 'unstructured, N:M (2:4) or 1xB (1x4)')
    .option('--solver <name>', 'magnitude, wanda, sparsegpt, alps or none (alps)')
    .option('--allocation <name>', 'uniform, owl or sensitivity (uniform)')
    .option('--keep-mask [model]', 'keep the zeros that are there, or those of another model; make no others')
    .option('--quantize <format>', 'none, i8 (one scale a row) or i4 (none)')
    .option('--group <n>', 'i4: columns that share a scale, 32 or 128 (32)', whole(1))
    .option('--rounding <name>', 'gptq; nearest or search for a model trained for that rule (gptq)')
    .option('--embeddings <format>', 'embedding and head: none, i8 or i4 (i8 with --quantize)')
    .option('--smooth <alpha>', 'SmoothQuant; 0 is off (0)', decimal(0, 1))
    .option('--dtype <type>', 'of floating-point weights: auto, bf16, f16 or f32 (auto)')
    .option('--skip <regex>', 'matrices to leave as they are, by name')
    .option('--damping <share>', "of the Hessian's mean diagonal (0.01)", decimal(1e-6, 1))
    .option('--calibration <file>', 'text, JSON lines with "text", safetensors with ids, or builtin')
    .option('--samples <n>', 'calibration windows (128)', whole(1))
    .option('--length <n>', 'tokens of one (2048)', whole(2))
    .option('--held-out <file>', 'text for the perplexity before and after: a file, builtin or none')
    .option('--held-out-samples <n>', 'its windows (4)', whole(1))
    .option('--held-out-length <n>', 'tokens of one (2048)', whole(2))
    .option('--precision <type>', 'of the calibration passes: auto, f32 or bf16 (auto)')
    .option('--recipe <file>', 'YAML with the same keys, in camel case; flags win')
    .option('--memory <bytes>', 'spill to the disk what does not fit, beside one layer', bytes)
    .option('--resume', 'continue an interrupted run after its last finished layer')
    .option('--force', 'replace OUT, once the new model is complete')
    .option('--threads <n>', 'threads', whole(1, 1024))
    .option('--isa <name>', 'instruction set (also FILIGREE_ISA)')
    .option('--json', 'one object: zeros and error of each matrix, perplexity, minutes, memory')
    .addHelpText(
      'after',
      `
Examples:
  $ filigree compress ./my-model -o ./my-model-50-i8 --sparsity 0.5 --quantize i8
  $ filigree compress ./my-model -o ./my-model-70 --sparsity 0.7 --calibration text.txt --samples 64
  $ filigree compress ./sparse-trained -o ./small --keep-mask --quantize i4 --rounding nearest`,
    )
    .action(async (model, options) => (await import('../cli/compress.js')).compressCommand(model, options));
}
