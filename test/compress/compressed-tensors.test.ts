import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compress } from '../../src/compress/compress.js';
import { completeRecipe } from '../../src/compress/options.js';
import { openModel } from '../../src/model/index.js';
import { ReadableFile } from '../../src/model/model-file.js';
import { readSafetensors } from '../../src/model/safetensors.js';
import { readRows } from '../../src/native/index.js';
import { denseModel } from './tiny.js';

/**
 * FILIGREE_COMPRESSED_TENSORS_PYTHON=venv/bin/python, where `compressed-tensors<0.15`, torch and transformers are installed.
 * PyTorch is large, so this runs only where it is asked for.
 */
const python = process.env.FILIGREE_COMPRESSED_TENSORS_PYTHON;
const scratch = mkdtempSync(join(tmpdir(), 'filigree-library-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe.skipIf(!python)(
  `the compressed-tensors library${python ? '' : ' (skipped: FILIGREE_COMPRESSED_TENSORS_PYTHON is not set)'}`,
  () => {
    test.each(['bf16', 'f16', 'f32'] as const)(
      'reads our %s sparse-bitmask files to the same values',
      async (dtype) => {
        using model = denseModel();
        const out = join(scratch, dtype);
        const recipe = completeRecipe({ solver: 'magnitude', sparsity: 0.6, heldOut: 'none', dtype });
        await compress(await openModel(model.path), { recipe, out, resume: false, force: false });
        const read = join(scratch, `${dtype}.safetensors`);
        const script = join(import.meta.dirname, 'compressed_tensors_values.py');
        execFileSync(python as string, [script, out, read], { stdio: ['ignore', 'inherit', 'inherit'] });

        const manifest = await openModel(out);
        const paths = manifest.files.map((f) => f.path);
        const file = ReadableFile.open(read);
        try {
          const { tensors } = readSafetensors(file, 0);
          expect(tensors.map((t) => t.name).sort()).toEqual(manifest.tensors.map((t) => t.name).sort());
          let sparse = 0;
          for (const theirs of tensors) {
            const bytes = file.read(theirs.offset, theirs.bytes);
            const tensor = manifest.tensors.find((t) => t.name === theirs.name)!;
            const rows = tensor.shape.length === 1 ? 1 : tensor.shape[0]!;
            const ours = await readRows(tensor, paths, 0, rows);
            const values = Float32Array.from({ length: theirs.bytes / 4 }, (_, i) =>
              bytes.readFloatLE(4 * i),
            );
            expect(values, theirs.name).toEqual(ours);
            sparse += Number(tensor.encoding === 'bitmask');
          }
          expect(sparse).toBe(3 * 7);
        } finally {
          file.close();
        }
      },
      300_000,
    );
  },
);
