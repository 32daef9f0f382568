// clang-format over the C++ sources, where a clang-format is installed; says so where there is none.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const write = process.argv.includes('--write');
const tool = ['clang-format-19', 'clang-format'].find(
  (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
if (!tool) {
  console.log('clang-format: not installed here, C++ formatting not checked (Debian: clang-format-19)');
  process.exit(0);
}
const sources = ['native', 'test/kernels'].flatMap((folder) =>
  readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /\.(cc|h|cu|cuh)$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name)),
);
const run = spawnSync(tool, [...(write ? ['-i'] : ['--dry-run', '--Werror']), ...sources], {
  stdio: 'inherit',
});
if (run.status === 0)
  console.log(`${tool}: ${sources.length} files ${write ? 'formatted' : 'well formatted'}`);
process.exit(run.status ?? 1);
