import { type Command, Option } from 'commander';
import { MODEL, many, whole } from '../cli/options.js';

/** Flags and examples of `bench` and of its `serve`, `peers` and `kernels`. */
export function addBench(program: Command): void {
  /** What `bench` and `bench peers` share: which of ours take part, and under which conditions. */
  const withContest = (command: Command) =>
    command
      .option('--shape <name>', 'random weights of a shape instead of a MODEL: 135m, 1.1b, 7b, 8b')
      .option('--sparsity <list>', 'shares of zeros, with --shape', '0,0.5,0.7')
      .option('--formats <list>', 'formats to compare', 'f32,bf16,i8,i4')
      .option('--batch <list>', 'sequences decoded at once', '1')
      .option('--prompt <n>', 'tokens of prefill', '512')
      .option('--context <n>', 'tokens already in the cache while decoding', '64')
      .option('--rounds <n>', 'interleaved rounds', '5')
      .option('--kv <list>', 'storage of the KV cache: f32, f16, bf16, i8, fp8', 'f16')
      .addOption(
        new Option('--device <name>', 'where the layers are computed')
          .choices(['auto', 'cpu', 'cuda'])
          .default('cpu'),
      )
      .option('--tensor-parallel <list>', 'GPUs that share the model', '1')
      .option('--threads <n>', 'threads')
      .option('--isa <name>', 'instruction set')
      .option('--neighbour', 'measure again beside a process that keeps a core busy')
      .option('--lora-rank <n>', 'each of ours once more under a random LoRA adapter', whole(1, 512))
      .option('--report <dir>', 'write tables, plots and JSON there')
      .option('--json', 'one object');

  const bench = withContest(program.command('bench').enablePositionalOptions().argument('[MODEL]', MODEL))
    .description('compare dense, sparse and sparse-quantized in one interleaved run')
    .addHelpText(
      'after',
      `
Examples:
  $ filigree bench
  $ filigree bench --shape 1.1b --formats bf16,i8 --report ./report
  $ filigree bench serve --url http://127.0.0.1:8000 --concurrency 8`,
    )
    .action(async (model, options) => (await import('../cli/bench.js')).benchCommand(model, options));
  bench
    .command('gguf')
    .argument('<file>', 'the file to write')
    .description('write a GGUF file of random weights, to serve or to give to a peer')
    .requiredOption('--shape <name>', '135m, 1.1b, 7b or 8b')
    .option('--type <type>', 'its weights: q4_0, q4_k, q8_0, f16, bf16 or f32', 'q8_0')
    .option('--sparsity <share>', "share of zeros in the layers' matrices, with q8_0", '0')
    .addHelpText(
      'after',
      '\nExample:\n  $ filigree bench gguf random.gguf --shape 1.1b --sparsity 0.7\n  $ filigree serve random.gguf --weights i4',
    )
    .action(async (file, options) => (await import('../cli/bench.js')).benchGgufCommand(file, options));
  bench
    .command('serve')
    .description('load on a running OpenAI-compatible server, ours or any other')
    .requiredOption('--url <url>', 'the server')
    .option('--api-key <key>', 'its key')
    .option('--model <name>', 'the model to ask for')
    .option('--concurrency <n>', 'requests at once', '8')
    .option('--rate <n>', 'arrivals a second (Poisson) instead')
    .option('--requests <n>', 'how many; default: four for each client')
    .option('--max-tokens <n>', 'tokens of an answer', '64')
    .option('--prompts <file>', 'prompts, one a line or JSON lines')
    .option('--prompt-tokens <n>', 'length of made-up prompts', '80')
    .option('--prefix-tokens <n>', 'tokens before them that several share, as a system prompt is shared', '0')
    .option('--prefix-groups <n>', 'different ones of these', '5')
    .option('--good-ttft <ms>', 'first token that counts as good', '1000')
    .option('--good-itl <ms>', 'time between tokens that counts as good', '100')
    .option('--neighbour', 'then the same load again beside a process that keeps a core busy')
    .option('--output <file>', 'write the report there')
    .option('--json', 'one object')
    .addHelpText(
      'after',
      '\nExample:\n  $ filigree bench serve --url http://127.0.0.1:8000 --concurrency 16 --requests 200',
    )
    .action(async (options) => (await import('../cli/bench.js')).benchServeCommand(options));

  withContest(bench.command('peers').argument('[MODEL]', MODEL))
    .description('ours beside llama.cpp, node-llama-cpp or any server, interleaved in one run')
    .option('--gguf <file>', 'model for the GGUF engines; repeatable; default: MODEL, if it is one', many)
    .option('--peer-types <list>', 'with --shape: weights of their random model', 'q4_0,q8_0')
    .option('--llama-bench <program>', 'llama-bench of llama.cpp; llama-batched-bench beside it does batches')
    .option('--node-llama-cpp <dir>', 'folder where node-llama-cpp is installed; default: this one')
    .option('--url <name=url>', 'an OpenAI-compatible server; repeatable', many)
    .option('--generate <n>', 'tokens a peer generates to time decoding', '32')
    .option('--peer-timeout <seconds>', 'longest run of a peer', '600')
    .addHelpText(
      'after',
      `
Examples:
  $ filigree bench peers --shape 1.1b --sparsity 0.7 --formats i8,i4 --llama-bench ./llama.cpp/build/bin/llama-bench
  $ filigree bench peers ./sparse70 --gguf ./dense-Q4_0.gguf
  $ filigree bench peers ./sparse70 --url llama-server=http://127.0.0.1:8080 --batch 1,8`,
    )
    .action(async (model, options) =>
      (await import('../cli/bench-peers.js')).benchPeersCommand(model, options),
    );

  bench
    .command('kernels')
    .argument('[MODEL]', 'take the matrices of a model instead of random ones')
    .description(
      'every kernel variant on real shapes, against the bandwidth and arithmetic measured in the same run',
    )
    .option('--shape <name>', 'shape of the random matrices: 135m, 1.1b, 7b, 8b', '1.1b')
    .option('--sparsity <share>', 'zeros of the random matrices', '0.7')
    .option('--matrices <list>', 'some of qkv,o,gate_up,down', 'gate_up,down')
    .option('--formats <list>', 'formats to measure', 'f32,bf16,i8,i4g32,i4g128')
    .option('--tokens <list>', 'tokens multiplied at once', '1,16,512')
    .option('--weights <n>', 'elements of a matrix: layers are stacked until there are so many', '100000000')
    .option('--rounds <n>', 'interleaved rounds', '3')
    .option('--threads <n>', 'threads')
    .option('--isa <name>', 'only the kernels of this instruction set')
    .addOption(new Option('--device <name>', 'cuda, with --tune').choices(['cpu', 'cuda']).default('cpu'))
    .option(
      '--tune',
      "with --device cuda: times the launch shapes of a layer's sparse matrices and keeps the fastest for this kind of GPU",
    )
    .option('--json', 'one object')
    .addHelpText(
      'after',
      `
Examples:
  $ filigree bench kernels
  $ filigree bench kernels --device cuda --tune --shape 7b --formats bf16,i8
  $ filigree bench kernels --isa avx2 --formats f32,i8 --tokens 1
  $ filigree bench kernels ./sparse70 --matrices down`,
    )
    .action(async (model, options) =>
      (await import('../cli/bench-kernels.js')).benchKernelsCommand(model, options),
    );
}
