import type { Command } from 'commander';
import { whole } from '../cli/options.js';

/** Flags and examples of `pull`: a hub model into the cache. */
export function addPull(program: Command): void {
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
    .action(async (id, options) => (await import('../cli/pull.js')).pullCommand(id, options));
}
