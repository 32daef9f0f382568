import type { ModelManifest } from '../src/model/manifest.js';
import {
  type GpuLaunch,
  type KernelFormat,
  packKernelMatrix,
  readGpuPlans,
  writeGpuPlans,
} from '../src/native/index.js';
import { kindNames, layerMatrices } from './kernels.js';

interface TunedRow extends GpuLaunch {
  matrix: string;
  format: KernelFormat;
}

/**
 * Times the GPU's launch shapes for the matrices of a model's first layer, in each format, and keeps those that are faster than
 * the planned ones: models are loaded with them from then on. Prints what was found.
 */
export async function tuneGpu(
  model: ModelManifest,
  formats: readonly KernelFormat[],
  threads: number,
  json: boolean,
): Promise<void> {
  let plans = readGpuPlans();
  const rows: TunedRow[] = [];
  const files = model.files.map((file) => file.path);
  for (const { name, tensors } of layerMatrices(model, kindNames))
    for (const format of formats) {
      const matrix = await packKernelMatrix(tensors, files, { format, layout: 'dense', threads });
      try {
        const tuned = await matrix.tune(plans);
        plans = tuned.plans;
        rows.push(...tuned.launches.map((launch) => ({ matrix: name, format, ...launch })));
      } finally {
        matrix.close();
      }
    }
  const path = rows.length > 0 ? writeGpuPlans(plans) : null;
  if (json) {
    process.stdout.write(`${JSON.stringify({ model: model.name, table: path, rows })}\n`);
    return;
  }
  const { default: Table } = await import('cli-table3');
  const table = new Table({
    head: ['matrix', 'weights', 'on the GPU', 'tokens', 'planned, µs', 'fastest, µs', 'gain'],
    style: { head: [], border: [], compact: true },
  });
  for (const r of rows)
    table.push([
      r.matrix,
      r.format,
      r.layout,
      r.tokens,
      r.plannedUs.toFixed(2),
      r.bestUs.toFixed(2),
      `${(100 * (r.plannedUs / r.bestUs - 1)).toFixed(1)} %`,
    ]);
  process.stdout.write(`${table.toString()}\n`);
  process.stdout.write(
    path === null ? 'no matrix of enough zeros to be stored sparse: nothing is tuned\n' : `kept in ${path}\n`,
  );
}
