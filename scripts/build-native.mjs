#!/usr/bin/env node
// Builds the native addon with cmake-js into build/Release/filigree.node. Runs as npm's "install" script.
//
//   node scripts/build-native.mjs                     full build; a failed build is cleaned and tried once more
//   node scripts/build-native.mjs --incremental       rebuilds only what changed (development)
//   node scripts/build-native.mjs --out build-asan --sanitize
//                                                     another variant: always in a folder of its own, because CMake
//                                                     keeps the options of the first configuration
//   FILIGREE_SKIP_BUILD=1                             does nothing (the addon comes from elsewhere)
//
// Node's headers are not downloaded: package.json's binary.napi_versions makes cmake-js use node-api-headers.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

const INSTALL_HINT = `Filigree compiles its kernels at installation and needs CMake 3.20 or newer and a C++20 compiler
(g++ 12 or clang 15, or newer).
  Debian, Ubuntu:  apt-get install cmake g++ make
  Fedora:          dnf install cmake gcc-c++ make
  macOS:           xcode-select --install && brew install cmake
Then run "npm rebuild filigree", or "npm run build:native" in a clone. FILIGREE_SKIP_BUILD=1 skips this step.`;

function fail(message) {
  console.error(`\nfiligree: ${message}\n\n${INSTALL_HINT}\n`);
  process.exit(1);
}

/** First line that `command --version` prints, or null when it cannot be run. */
function version(command) {
  const result = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return result.status === 0 ? (result.stdout.split('\n')[0] ?? '') : null;
}

function checkTools() {
  const cmake = version('cmake');
  if (cmake === null) fail('CMake was not found.');
  const [, major, minor] = /(\d+)\.(\d+)/.exec(cmake) ?? [];
  if (Number(major) < 3 || (Number(major) === 3 && Number(minor) < 20)) fail(`${cmake} is too old.`);
  const compilers = process.env.CXX ? [process.env.CXX] : ['c++', 'g++', 'clang++'];
  if (process.platform !== 'win32' && !compilers.some((compiler) => version(compiler) !== null)) {
    fail(`no C++ compiler was found (looked for ${compilers.join(', ')}).`);
  }
}

const { values: options } = parseArgs({
  options: {
    incremental: { type: 'boolean', default: false },
    out: { type: 'string' },
    sanitize: { type: 'boolean', default: false },
    debug: { type: 'boolean', default: false },
    jobs: { type: 'string' },
  },
});

if (process.env.FILIGREE_SKIP_BUILD === '1') {
  console.log('filigree: FILIGREE_SKIP_BUILD=1, the native addon is not built.');
  process.exit(0);
}
const prebuilt = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'filigree.node');
if (process.env.npm_lifecycle_event === 'install' && existsSync(prebuilt)) {
  console.log(`filigree: using the prebuilt addon ${prebuilt}.`);
  process.exit(0);
}
if ((options.sanitize || options.debug) && !options.out) {
  fail('--sanitize and --debug need a build folder of their own: give --out, for example --out build-asan.');
}

checkTools();
const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
const jobs = Number(options.jobs ?? process.env.FILIGREE_BUILD_JOBS ?? availableParallelism());
const args = [cmakeJs, options.incremental || options.out ? 'build' : 'compile', '--directory', root];
args.push('--parallel', String(Math.max(1, jobs)), '--log-level', 'warn');
if (options.out) args.push('--out', path.resolve(root, options.out));
if (options.debug) args.push('--debug');
if (options.sanitize) args.push('--CDFILIGREE_SANITIZE=ON');
const result = spawnSync(process.execPath, args, { stdio: 'inherit', cwd: root });
if (result.status !== 0)
  fail(`the native build failed (${result.signal ?? `exit code ${result.status}`}); its messages are above.`);
const addon = path.join(
  options.out ? path.resolve(root, options.out) : path.join(root, 'build'),
  options.debug ? 'Debug' : 'Release',
  'filigree.node',
);
console.log(`filigree: built ${path.relative(root, addon)}`);
