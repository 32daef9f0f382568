#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import { packageVersion } from './config.js';
import { FiligreeError } from './errors.js';

/**
 * The command line: what there is and how it is spelled. What a command does stands in `cli/`, loaded only when it
 * runs, so that `--help` is instant and `run` does not wait for a web server.
 */
async function main(argv: string[]): Promise<void> {
  const { adapters, bytes, decimal, whole, withModelOptions } = await import('./cli/options.js');
  const many = (value: string, before: string[] | undefined) => [...(before ?? []), value];
  const listOf = (value: string, before: string[] | undefined) => [...(before ?? []), ...value.split(',')];
  const MODEL = 'a folder, a .gguf file or a name; left out: the embedded default';

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

  withModelOptions(program.command('serve').argument('[MODEL]', MODEL))
    .description('serve a model over an OpenAI-compatible API, HTTP and WebSocket')
    .option('--host <address>', 'address to bind', '127.0.0.1')
    .option('--port <n>', 'port; 0 takes a free one', whole(0, 65535), 8000)
    .option('--api-key <key>', 'a key that callers must send; repeatable (also FILIGREE_API_KEY)', many)
    .option('--protect-all', 'keys for probes, metrics and documentation too')
    .option('--served-model-name <name>', 'name in the API; repeatable: further names are aliases', many)
    .option('--max-num-seqs <n>', 'sequences that run at once', whole(1, 4096), 32)
    .option('--max-num-batched-tokens <n>', 'tokens of one step', whole(16, 65536), 512)
    .option('--lora <name=path>', 'a LoRA adapter (PEFT), asked for as model NAME; repeatable', adapters)
    .option('--no-prefix-cache', 'do not keep the KV of earlier prompts')
    .addOption(
      new Option(
        '--generation-config <mode>',
        "auto: the model's recommended sampling where a request says nothing",
      )
        .choices(['auto', 'none'])
        .default('auto'),
    )
    .option('--compare', 'load the model dense, sparse and sparse-quantized too, side by side on the page')
    .option('--trust-special-tokens', 'control tokens spelled in messages become control tokens')
    .option('--queue <n>', 'requests that may wait', whole(1, 1_000_000), 256)
    .option('--queue-tokens <n>', 'prompt tokens that may wait', whole(1))
    .option(
      '--drain-timeout <seconds>',
      'how long running answers may take after SIGTERM',
      decimal(0, 86400),
      30,
    )
    .option('--cors <origin>', 'origins that browsers may call from, or *; repeatable', listOf)
    .option('--rate-limit <n>', 'requests a minute of one caller', whole(1))
    .option('--kv-events-config <json>', "publish what the prefix cache holds over ZeroMQ, in vLLM's form")
    .addOption(
      new Option('--log-level <level>', 'what is logged on stderr')
        .choices(['silent', 'error', 'warn', 'info', 'debug', 'trace'])
        .default('info'),
    )
    .option('--json', 'announce readiness as one JSON line (always so when piped)')
    .addHelpText(
      'after',
      `
When ready, one line on stdout: {"event":"ready","url":...,"model":...,"load_ms":...}

Examples:
  $ filigree serve
  $ filigree serve ./Qwen2.5-Coder-1.5B-Q4_K_M.gguf --port 0 --max-num-seqs 8
  $ filigree serve ./sparse70 --host 0.0.0.0 --api-key secret --kv i8
  $ filigree serve ./sparse70 --lora poet=./poet-adapter --lora sql=./sql-adapter
  $ curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"messages":[{"role":"user","content":"Hello"}]}'`,
    )
    .action(async (model, options) => (await import('./cli/serve.js')).serveCommand(model, options));

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
      (await import('./cli/run.js')).runCommand(model, prompt, options),
    );

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
      .addOption(
        new Option('--kv <type>', 'storage of the KV cache')
          .choices(['f32', 'f16', 'bf16', 'i8'])
          .default('f16'),
      )
      .option('--threads <n>', 'threads')
      .option('--isa <name>', 'instruction set')
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
    .action(async (model, options) => (await import('./cli/bench.js')).benchCommand(model, options));
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
    .option('--good-ttft <ms>', 'first token that counts as good', '1000')
    .option('--good-itl <ms>', 'time between tokens that counts as good', '100')
    .option('--output <file>', 'write the report there')
    .option('--json', 'one object')
    .addHelpText(
      'after',
      '\nExample:\n  $ filigree bench serve --url http://127.0.0.1:8000 --concurrency 16 --requests 200',
    )
    .action(async (options) => (await import('./cli/bench.js')).benchServeCommand(options));

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
      (await import('./cli/bench-peers.js')).benchPeersCommand(model, options),
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
    .option('--json', 'one object')
    .addHelpText(
      'after',
      `
Examples:
  $ filigree bench kernels
  $ filigree bench kernels --isa avx2 --formats f32,i8 --tokens 1
  $ filigree bench kernels ./sparse70 --matrices down`,
    )
    .action(async (model, options) =>
      (await import('./cli/bench-kernels.js')).benchKernelsCommand(model, options),
    );

  withModelOptions(program.command('eval').argument('[MODEL]', MODEL))
    .description(
      'perplexity and tasks, scored as lm-evaluation-harness does; two models compared item by item',
    )
    .option(
      '--tasks <list>',
      'tasks, separated by commas',
      'wikitext2,hellaswag,arc_easy,arc_challenge,winogrande',
    )
    .option('--data <dir>', 'folder of evaluation data; left out: a few items that come along')
    .option('--limit <n>', 'the first items of each task (windows of wikitext2)', whole(1))
    .option('--fewshot <n>', "labelled examples before each item; default: the task's own", whole(0, 1000))
    .option('--compare <model>', 'evaluate a second model too: what it recovers of the first')
    .option('--apply-chat-template', "put prompts into the model's chat template")
    .option('--allow-code-execution', 'run programs that the model wrote (humaneval, mbpp), sandboxed')
    .option('--window <n>', 'tokens of a window of wikitext2', whole(2), 2048)
    .option('--max-num-seqs <n>', 'sequences that run at once', whole(1, 4096), 32)
    .option('--samples <dir>', "write every item's scores there, one JSONL file a task")
    .option('--json', 'one object')
    .addHelpText(
      'after',
      `
Tasks: wikitext2 (SparseGPT's perplexity), wikitext (word-level), hellaswag, arc_easy, arc_challenge, winogrande, mmlu,
piqa, lambada, boolq, openbookqa, gsm8k, humaneval, mbpp, cnn_dailymail, dialogsum, ifeval. Their data, rules and
measured agreement with lm-evaluation-harness: docs/eval.md.

Examples:
  $ filigree eval
  $ filigree eval ./my-model --tasks hellaswag,arc_easy --data ./eval-data --limit 500
  $ filigree eval ./dense --compare ./sparse --data ./eval-data --json
  $ filigree eval ./coder --tasks humaneval --data ./eval-data --allow-code-execution`,
    )
    .action(async (model, options) => (await import('./cli/eval.js')).evalCommand(model, options));

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
    .action(async (model, options) => (await import('./cli/compress.js')).compressCommand(model, options));

  program
    .command('pull')
    .argument('<ID>', 'owner/name on the hub')
    .description('download a model into the cache: resumes, and checks every hash')
    .option('--from <url>', 'a hub or mirror (also HF_ENDPOINT)')
    .option('--revision <name>', 'branch, tag or commit', 'main')
    .option('--file <path>', 'one file alone, such as a GGUF among several')
    .option('--parallel <n>', 'files at once', whole(1, 32), 4)
    .option('--verify', 'check the hashes of files that lie there already')
    .option('--json', 'one object')
    .addHelpText(
      'after',
      `
A private or gated model wants HF_TOKEN. Without a network, what the cache holds is used.

Examples:
  $ filigree pull HuggingFaceTB/SmolLM2-135M-Instruct
  $ filigree pull Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF --file qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
  $ filigree pull owner/model --from http://mirror.local:8080`,
    )
    .action(async (id, options) => (await import('./cli/pull.js')).pullCommand(id, options));

  program
    .command('inspect')
    .argument('[MODEL]', MODEL)
    .description('what a model is: tensors, formats, zeros per matrix, template, problems')
    .option('--tensors', 'list every tensor')
    .option('--no-zeros', 'do not count zeros, which reads the whole model')
    .option('--json', 'one object')
    .addHelpText('after', '\nExample:\n  $ filigree inspect ./my-model --tensors')
    .action(async (model, options) => (await import('./cli/inspect.js')).inspectCommand(model, options));

  program
    .command('doctor')
    .description('what this machine can do, which kernels will be used, and what is missing')
    .option('--no-measure', 'skip the bandwidth measurement')
    .option('--json', 'one object')
    .addHelpText('after', '\nExample:\n  $ filigree doctor')
    .action(async (options) => (await import('./cli/doctor.js')).doctorCommand(options));

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
