// Keeps the arrows between folders: which folder may import which. One table for each language.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const typescript = {
  'src/errors': [],
  'src/config': ['src/errors'],
  'src/model': ['src/errors', 'src/config'],
  'src/tokenizer': ['src/errors', 'src/model'],
  'src/engine': ['src/errors', 'src/tokenizer'],
  'src/native': ['src/errors', 'src/config', 'src/engine/model-runner', 'src/model'],
  'src/compress': [
    'src/errors',
    'src/config',
    'src/model',
    'src/tokenizer',
    'src/native',
    'src/engine',
    'src/eval',
  ],
  'src/eval': ['src/errors', 'src/config', 'src/model', 'src/tokenizer', 'src/engine', 'src/native'],
  'src/grammar': ['src/errors', 'src/tokenizer', 'src/engine/model-runner'],
  'src/server': ['src/errors', 'src/config', 'src/engine', 'src/grammar', 'src/model', 'src/tokenizer'],
  bench: [
    'src/errors',
    'src/config',
    'src/engine',
    'src/grammar',
    'src/model',
    'src/tokenizer',
    'src/native',
    'src/server',
  ],
  'src/cli': ['src', 'bench'],
  'src/commands': ['src/cli'],
  'src/main': ['src'],
  'src/index': ['src'],
};

const native = {
  'native/base': [],
  // The layouts themselves stand beside the kernels that walk them; formats packs them.
  'native/formats': [
    'native/base',
    'native/kernels/linear/linear.h',
    'native/kernels/linear/expand.h',
    'native/kernels/linear/slots.h',
  ],
  'native/kernels': ['native/base', 'native/formats'],
  'native/compress': ['native/base', 'native/kernels', 'native/formats', 'native/engine'],
  'native/grammar': ['native/base'],
  'native/engine': ['native/base', 'native/kernels', 'native/formats', 'native/grammar', 'native/cuda'],
  'native/cuda': ['native/base', 'native/formats', 'native/kernels'],
  'native/binding': ['native'],
};

function* files(folder, pattern) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true, recursive: true })) {
    const path = relative(root, join(entry.parentPath ?? entry.path, entry.name));
    if (entry.isFile() && pattern.test(entry.name)) yield path;
  }
}

const within = (path, prefix) =>
  path === prefix || path.startsWith(`${prefix}/`) || path.startsWith(`${prefix}.`);
const owner = (table, path) =>
  Object.keys(table)
    .filter((folder) => within(path, folder))
    .sort((a, b) => b.length - a.length)[0];

const problems = [];
function check(table, from, to, text) {
  const home = owner(table, from);
  if (!home) return problems.push(`${from}: stands in no folder that the table of arrows knows`);
  if (within(to, home) || table[home].some((allowed) => within(to, allowed))) return;
  problems.push(`${from}: may not import ${to} (${home} -> ${owner(table, to) ?? to})${text}`);
}

for (const folder of ['src', 'bench'])
  for (const path of files(folder, /\.ts$/))
    for (const [, target] of readFileSync(join(root, path), 'utf8').matchAll(
      /(?:from|import)\s*\(?\s*'(\.[^']+)'/g,
    ))
      check(typescript, path, normalize(join(dirname(path), target)).replace(/\.js$/, '.ts'), '');

for (const path of files('native', /\.(cc|h|cu|cuh|inc)$/)) {
  const text = readFileSync(join(root, path), 'utf8');
  if (/#include\s+<napi\.h>/.test(text) && !within(path, 'native/binding'))
    problems.push(`${path}: only native/binding includes napi.h`);
  for (const [, target] of text.matchAll(/#include\s+"([^"]+)"/g)) {
    const to = /^(base|formats|kernels|grammar|engine|compress|cuda|binding)\//.test(target)
      ? `native/${target}`
      : normalize(join(dirname(path), target));
    check(native, path, to, '');
    if (/\.cc$/.test(target)) problems.push(`${path}: a .cc includes another .cc`);
  }
}

for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exit(1);
console.log('arrows between folders: kept');
