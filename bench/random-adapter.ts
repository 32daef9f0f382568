import { ADAPTER_TARGETS, type AdapterManifest, type ModelConfig, targetShape } from '../src/model/index.js';

/** An adapter of random values on every matrix that one may change, to time LoRA without a file. */
export function randomAdapter(name: string, config: ModelConfig, rank: number): AdapterManifest {
  let seed = 1;
  const tensor = (label: string, shape: number[]) => ({
    name: `${name}.${label}`,
    shape,
    encoding: 'random' as const,
    parts: {},
    random: { seed: seed++, zeros: 0 },
  });
  const pairs = Array.from({ length: config.numLayers }, (_, layer) =>
    ADAPTER_TARGETS.map((target) => {
      const { rows, columns } = targetShape(target, config);
      const a = tensor(`${layer}.${target}.A`, [rank, columns]);
      return { layer, target, scale: 1, a, b: tensor(`${layer}.${target}.B`, [rows, rank]) };
    }),
  ).flat();
  return { name, path: '', files: [], pairs, rank, bytes: 0, problems: [] };
}
