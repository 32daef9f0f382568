import { FiligreeError } from '../errors.js';
import type { KernelFormat } from '../native/index.js';
import { integer, numbers, pick } from './bench-options.js';
import { progressLine } from './progress-line.js';

export interface BenchKernelsOptions {
  shape: string;
  sparsity: string;
  formats: string;
  matrices: string;
  tokens: string;
  weights: string;
  rounds: string;
  threads?: string;
  isa?: string;
  device: 'cpu' | 'cuda';
  tune?: boolean;
  json?: boolean;
}

/** `filigree bench kernels [MODEL]`: every kernel variant of this machine on a model's real shapes, in one interleaved run. */
export async function benchKernelsCommand(
  model: string | undefined,
  options: BenchKernelsOptions,
): Promise<void> {
  const [kernels, { randomModel }, native, { openModel, resolveModel }] = await Promise.all([
    import('../../bench/kernels.js'),
    import('../../bench/shapes.js'),
    import('../native/index.js'),
    import('../model/index.js'),
  ]);
  if ((options.device === 'cuda') !== (options.tune === true))
    throw new FiligreeError(
      'usage',
      '--device cuda and --tune go together: other kernels of a GPU are timed by no command',
    );
  const [zeros] = numbers('--sparsity', options.sparsity, (v) => v >= 0 && v < 1);
  const tokens = numbers('--tokens', options.tokens, (v) => Number.isInteger(v) && v >= 1 && v <= 65536);
  const formats: KernelFormat[] = pick('--formats', options.formats, [
    'f32',
    'bf16',
    'i8',
    'i4g32',
    'i4g128',
  ]);
  const open = async () =>
    model === undefined ? randomModel(options.shape, zeros!) : await openModel(await resolveModel(model));
  const info = await native.nativeInfo();
  if (options.tune) {
    if (info.cudaObstacle !== null) throw new FiligreeError('usage', `--device cuda: ${info.cudaObstacle}`);
    const { tuneGpu } = await import('../../bench/tune-gpu.js');
    await tuneGpu(await open(), formats, info.defaultThreads, options.json === true);
    return;
  }
  const isas = options.isa === undefined ? info.isas.filter((isa) => isa !== 'scalar') : [options.isa];
  const variants = info.kernels.filter(
    (k) => k.supported && isas.includes(k.isa) && (formats as string[]).includes(k.format),
  );
  if (variants.length === 0)
    throw new FiligreeError(
      'usage',
      `no kernel is left: this processor runs ${[...new Set(info.kernels.filter((k) => k.supported).map((k) => k.isa))].join(', ')}`,
    );
  const manifest = await open();
  const progress = progressLine(options.json);
  const result = await kernels.benchKernels({
    cpu: info.cpu,
    model: manifest.name,
    files: manifest.files.map((file) => file.path),
    matrices: kernels.stackedMatrices(
      manifest,
      pick('--matrices', options.matrices, kernels.kindNames),
      integer('--weights', options.weights, 1),
    ),
    candidates: kernels.kernelCandidates(variants, tokens),
    threads: options.threads === undefined ? info.defaultThreads : integer('--threads', options.threads, 1),
    rounds: integer('--rounds', options.rounds, 1),
    onProgress: (done, total, what) => progress.show(`${what} (${Math.round((100 * done) / total)} %)`),
  });
  progress.end();
  process.stdout.write(options.json ? `${JSON.stringify(result)}\n` : `${kernels.kernelTable(result)}\n`);
}
