import { basename } from 'node:path';
import type { ModelManifest } from '../../../src/model/manifest.js';

/** A manifest's tensors as lines, which test/kernels/formats_fixture.h reads: one truth for both sides of the boundary. */
export function describeTensors(manifest: ModelManifest): string {
  const dims = (shape: number[]) => [shape.length, ...shape].join(' ');
  const lines = manifest.files.map((file) => `file ${basename(file.path)}`);
  for (const t of manifest.tensors) {
    lines.push(
      `tensor ${t.name} ${t.encoding} ${t.groupSize ?? 0} ${t.bits ?? 0} ${t.permutedHeads ?? 0} ${dims(t.shape)}`,
    );
    for (const [key, p] of Object.entries(t.parts)) {
      lines.push(`part ${key} ${p.file} ${p.offset} ${p.bytes} ${p.dtype} ${dims(p.shape)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}
