import type { ModelManifest } from '../model/manifest.js';
import { countZeros } from '../native/index.js';
import type { ZeroPicture } from '../server/service.js';

const KINDS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

/**
 * The zeros of each matrix, counted on the first question, one matrix after the other off the event loop: a server that
 * nobody looks at never reads its model twice.
 */
export function zeroPicture(manifest: ModelManifest): ZeroPicture {
  const layers = manifest.config.numLayers;
  const files = manifest.files.map((file) => file.path);
  let counted: Record<string, (number | null)[]> | null = null;
  let started = false;

  async function count(): Promise<void> {
    const zeros: Record<string, (number | null)[]> = Object.fromEntries(
      KINDS.map((kind) => [kind, new Array<number | null>(layers).fill(null)]),
    );
    for (const tensor of manifest.tensors) {
      const [, layer, kind] = /^model\.layers\.(\d+)\..*?(\w+_proj)\.weight$/.exec(tensor.name) ?? [];
      const row = kind === undefined ? undefined : zeros[kind];
      if (row === undefined) continue;
      // A kind of tensor that cannot be counted stays unknown.
      const share = await countZeros(tensor, files).catch(() => null);
      if (share !== null && share.total > 0) row[Number(layer)] = share.zeros / share.total;
    }
    counted = zeros;
  }

  return {
    layers,
    zeros() {
      if (!started) {
        started = true;
        void count();
      }
      return counted;
    },
  };
}
