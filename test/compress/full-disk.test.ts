import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compress } from '../../src/compress/compress.js';
import { completeRecipe } from '../../src/compress/options.js';
import { openModel } from '../../src/model/index.js';
import { denseModel } from './tiny.js';

const mountPoint = mkdtempSync(join(tmpdir(), 'filigree-disk-'));
const mount = (options: string) => spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', mountPoint]);
const unmount = () => spawnSync('umount', [mountPoint]);
const permitted = mount('size=64k').status === 0;
if (permitted) unmount();
afterAll(() => rmSync(mountPoint, { recursive: true, force: true }));

const files = (folder: string) =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'base64')]));

describe.skipIf(!permitted)(
  `a full disk${permitted ? '' : ' (skipped: this user may not mount a tmpfs)'}`,
  () => {
    // Sizes at which it is full while the vocabulary, a layer and the finished model are written.
    test.each([
      ['the vocabulary', '8k', /vocabulary\.safetensors/],
      ['a layer', '96k', /layer-0000[12]\.safetensors/],
      ['the whole', '208k', /model\/model\.safetensors/],
    ])(
      'while %s is written: one line, nothing that loads, and the rest after --resume',
      async (_, size, place) => {
        using model = denseModel();
        const manifest = await openModel(model.path);
        const run = (out: string, resume: boolean) =>
          compress(manifest, {
            recipe: completeRecipe({ solver: 'magnitude', heldOut: 'none', dtype: 'bf16' }),
            out,
            resume,
            force: false,
          });
        const whole = join(mkdtempSync(join(tmpdir(), 'filigree-whole-')), 'out');
        await run(whole, false);
        mount(`size=${size}`);
        try {
          const out = join(mountPoint, 'out');
          const error = await run(out, false).then(
            () => null,
            (e: Error) => e,
          );
          expect(error?.message).toMatch(/the disk is full\. Free some space, then continue with --resume$/);
          expect(error?.message).toMatch(place);
          expect(error?.message).not.toContain('\n');
          expect(existsSync(out)).toBe(false);
          for (const folder of [`${out}.partial`, join(`${out}.partial`, 'model')])
            await expect(openModel(folder)).rejects.toThrow();
          mount('remount,size=4m');
          await run(out, true);
          expect(files(out)).toEqual(files(whole));
        } finally {
          unmount();
          rmSync(whole, { recursive: true, force: true });
        }
      },
    );
  },
);
