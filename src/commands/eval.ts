import type { Command } from 'commander';
import { MODEL, whole, withModelOptions } from '../cli/options.js';

/** Flags and examples of `eval`: perplexity and tasks. */
export function addEval(program: Command): void {
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
    .action(async (model, options) => (await import('../cli/eval.js')).evalCommand(model, options));
}
