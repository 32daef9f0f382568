import { readFileSync } from 'node:fs';
import cliProgress from 'cli-progress';
import { FiligreeError } from '../errors.js';

/** Flags of `compress` that are not part of the recipe. */
export interface CompressFlags {
  output: string;
  recipe?: string;
  resume?: boolean;
  force?: boolean;
  memory?: number;
  threads?: number;
  isa?: string;
  json?: boolean;
  [recipeKey: string]: unknown;
}

const NOT_RECIPE = new Set(['output', 'recipe', 'resume', 'force', 'memory', 'threads', 'isa', 'json']);

async function readRecipe(path: string): Promise<Record<string, unknown>> {
  const { parse } = await import('yaml');
  let value: unknown;
  try {
    value = parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new FiligreeError('usage', `--recipe ${path}: ${(error as Error).message.split('\n')[0]}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new FiligreeError('usage', `--recipe ${path}: it must hold keys and values`);
  return value as Record<string, unknown>;
}

interface Bar {
  update(share: number, stage: string): void;
  note(text: string): void;
  stop(): void;
}

const clock = (seconds: number) =>
  seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;

/** A bar with the time left on a terminal; a line every tenth of the way when piped. */
function progressBar(): Bar {
  const started = performance.now();
  // What an earlier run finished goes by in a moment and says nothing of the rest.
  let from: { share: number; at: number } | null = null;
  const left = (share: number): string => {
    from ??= { share, at: performance.now() };
    const done = share - from.share;
    const spent = (performance.now() - from.at) / 1000;
    return done < 0.002 ? '' : `, ${clock((spent / done) * (1 - share))} left`;
  };
  if (!process.stderr.isTTY) {
    let shown = -1;
    return {
      update(share, stage) {
        const tenth = Math.floor(share * 10);
        if (tenth === shown) return;
        shown = tenth;
        process.stderr.write(
          `${Math.floor(share * 100)} %, ${clock((performance.now() - started) / 1000)}: ${stage}${left(share)}\n`,
        );
      },
      note: (text) => void process.stderr.write(`note: ${text}\n`),
      stop() {},
    };
  }
  const bar = new cliProgress.SingleBar(
    {
      format: '[{bar}] {percent} % {stage}{left}',
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
    },
    cliProgress.Presets.shades_classic,
  );
  bar.start(1000, 0, { stage: 'reading', left: '', percent: 0 });
  return {
    update: (share, stage) =>
      bar.update(Math.round(share * 1000), { stage, left: left(share), percent: Math.floor(share * 100) }),
    note: (text) => void process.stderr.write(`\r\u001b[Knote: ${text}\n`),
    stop: () => bar.stop(),
  };
}

/** `filigree compress MODEL -o OUT`. */
export async function compressCommand(model: string | undefined, flags: CompressFlags): Promise<void> {
  const [{ compress }, { completeRecipe }, { openModel, resolveModel }] = await Promise.all([
    import('../compress/compress.js'),
    import('../compress/options.js'),
    import('../model/index.js'),
  ]);
  const given = Object.fromEntries(
    Object.entries(flags).filter(([key, value]) => !NOT_RECIPE.has(key) && value !== undefined),
  );
  if (typeof given.keepMask === 'string') Object.assign(given, { keepMask: true, mask: given.keepMask });
  const fromFile = flags.recipe === undefined ? {} : await readRecipe(flags.recipe);
  completeRecipe(fromFile, `--recipe ${flags.recipe}`);
  const recipe = completeRecipe({ ...fromFile, ...given }, 'compress');
  const manifest = await openModel(await resolveModel(model));
  const bar = progressBar();
  try {
    const report = await compress(manifest, {
      recipe,
      out: flags.output,
      resume: flags.resume ?? false,
      force: flags.force ?? false,
      threads: flags.threads,
      isa: flags.isa,
      memory: flags.memory,
      onProgress: bar.update,
      onNote: bar.note,
    });
    bar.stop();
    if (flags.json) process.stdout.write(`${JSON.stringify(report)}\n`);
    else process.stdout.write(await render(report));
  } finally {
    bar.stop();
  }
}

type Report = Awaited<ReturnType<typeof import('../compress/compress.js').compress>>;

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

async function render(report: Report): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const table = new Table({
    head: ['matrix', 'zeros', 'error, pruned', 'error, as stored', 'seconds'],
    style: { head: [], border: [] },
    colAligns: ['left', 'right', 'right', 'right', 'right'],
  });
  for (const m of report.matrices)
    table.push([
      m.name,
      percent(m.zeros),
      m.relative_error_pruned?.toPrecision(3) ?? '–',
      m.relative_error?.toPrecision(3) ?? '–',
      m.seconds.toFixed(1),
    ]);
  const p = report.perplexity;
  return `${table.toString()}
${report.model}: ${percent(report.sparsity)} of the layers' weights are zero; ${mib(report.bytes)} where bf16 takes ${mib(report.dense_bf16_bytes)}
${p === null ? '' : `perplexity ${p.before.toFixed(3)} -> ${p.after.toFixed(3)} over ${p.tokens} held-out tokens\n`}${report.minutes.toFixed(1)} minutes, at most ${mib(report.peak_memory_bytes)} of memory
wrote ${report.out}; serve it with: filigree serve ${report.out}
`;
}
