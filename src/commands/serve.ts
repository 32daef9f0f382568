import { type Command, Option } from 'commander';
import { adapters, decimal, listOf, MODEL, many, whole, withModelOptions } from '../cli/options.js';

/** Flags and examples of `serve`: the server and what it serves. */
export function addServe(program: Command): void {
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
    .action(async (model, options) => (await import('../cli/serve.js')).serveCommand(model, options));
}
