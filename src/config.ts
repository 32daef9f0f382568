import { readFileSync } from 'node:fs';
import { freemem, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { FiligreeError } from './errors.js';

/** The package's own folder, wherever it is installed and whether this file runs from source or compiled. */
export const PACKAGE_ROOT: string = (() => {
  const here = dirname(fileURLToPath(import.meta.url));
  for (let folder = here; folder !== dirname(folder); folder = dirname(folder)) {
    try {
      if (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === 'filigree') return folder;
    } catch {
      // Not here: one up.
    }
  }
  return here;
})();

/** The release, from the package's own package.json. */
export function packageVersion(): string {
  try {
    return JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')).version;
  } catch {
    return 'unknown';
  }
}

function readNumber(path: string): number | null {
  try {
    const value = Number(readFileSync(path, 'utf8').trim());
    return Number.isFinite(value) ? value : null;
  } catch {
    return null;
  }
}

/** Where a process's cgroup lies under each controller: `/proc/self/cgroup`. */
function cgroupFolders(): string[] {
  let text = '';
  try {
    text = readFileSync('/proc/self/cgroup', 'utf8');
  } catch {
    return [];
  }
  const folders: string[] = [];
  for (const line of text.split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    const root =
      controllers === ''
        ? '/sys/fs/cgroup'
        : controllers?.split(',').includes('memory')
          ? '/sys/fs/cgroup/memory'
          : null;
    if (root === null) continue;
    // A limit may stand at any level; inside a container the path may not exist and the root is ours.
    for (let at = path; ; at = dirname(at)) {
      folders.push(join(root, at));
      if (at === '/' || at === '.') break;
    }
  }
  return [...new Set(folders)];
}

/**
 * Bytes that this process may still take: the machine's available memory, and what each enclosing cgroup leaves
 * (memory.max of version 2, memory.limit_in_bytes of version 1). Page cache that can be dropped counts as free.
 */
export function availableMemory(): number {
  let available = freemem();
  try {
    const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'));
    if (match) available = Number(match[1]) * 1024;
  } catch {
    // Not Linux.
  }
  for (const folder of cgroupFolders()) {
    const limit = readNumber(join(folder, 'memory.max')) ?? readNumber(join(folder, 'memory.limit_in_bytes'));
    if (limit === null || limit >= totalmem()) continue;
    const used =
      readNumber(join(folder, 'memory.current')) ?? readNumber(join(folder, 'memory.usage_in_bytes')) ?? 0;
    let droppable = 0;
    try {
      const stat = readFileSync(join(folder, 'memory.stat'), 'utf8');
      droppable = Number(/^(?:total_)?inactive_file (\d+)/m.exec(stat)?.[1] ?? 0);
    } catch {
      // Counted as used.
    }
    available = Math.min(available, limit - used + droppable);
  }
  return Math.max(0, available);
}

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** `8GiB`, `512M`, `1073741824`. @throws FiligreeError usage */
export function parseBytes(flag: string, text: string): number {
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
  if (number === undefined)
    throw new FiligreeError('usage', `${flag} takes bytes, such as 8GiB or 512MiB, not '${text}'`);
  return Math.floor(Number(number) * (UNITS[unit?.toLowerCase() ?? ''] ?? 1));
}

export interface KvPlanInput {
  /** Bytes that one token takes in the cache. */
  bytesPerToken: number;
  blockTokens: number;
  maxNumSeqs: number;
  /** The longest sequence the model allows. */
  maxPositions: number;
  /** Asked for by the user. */
  maxModelLen?: number | undefined;
  kvMemory?: number | undefined;
  /** Bytes that this process may take, weights not yet loaded. */
  available: number;
  /** An upper bound of what the weights will take. */
  weightBytes: number;
}

export interface KvPlan {
  kvMemory: number;
  maxModelLen: number;
}

/**
 * The same on GPUs of `available` bytes together. The cache takes what the weights leave of them, which the engine knows when it
 * has packed them: by default `kvMemory` is what all sequences at full length can use, and a GPU that has less takes what it has.
 */
export function planGpuKv(input: KvPlanInput): KvPlan {
  const { bytesPerToken, blockTokens, maxNumSeqs, maxPositions, available, weightBytes } = input;
  if (input.kvMemory !== undefined) return planKv(input);
  const tokens = Math.floor(Math.max(0, available - weightBytes) / bytesPerToken);
  const room = Math.max(1, Math.floor(tokens / blockTokens) - 1) * blockTokens;
  const maxModelLen = input.maxModelLen ?? Math.min(maxPositions, room);
  const oneSequence = (Math.ceil(maxModelLen / blockTokens) + 1) * blockTokens * bytesPerToken;
  return planKv({ ...input, maxModelLen, kvMemory: maxNumSeqs * oneSequence });
}

/** Share of the memory that is left beside the weights which the cache may take by default. */
const KV_SHARE = 0.5;

/**
 * How large the KV cache is and how long a sequence may be. By default the cache holds every sequence at full length,
 * within half of the memory that is left; the length is then what the cache holds.
 * @throws FiligreeError usage, where what was asked for does not fit
 */
export function planKv(input: KvPlanInput): KvPlan {
  const { bytesPerToken, blockTokens, maxNumSeqs, maxPositions, available, weightBytes } = input;
  const wanted = Math.min(input.maxModelLen ?? maxPositions, maxPositions);
  if (input.maxModelLen !== undefined && input.maxModelLen > maxPositions)
    throw new FiligreeError(
      'usage',
      `--max-model-len ${input.maxModelLen} is more than the ${maxPositions} positions that the model has`,
    );
  const blocks = (tokens: number) => Math.ceil(tokens / blockTokens);
  const blockBytes = bytesPerToken * blockTokens;
  const oneSequence = (blocks(wanted) + 1) * blockBytes;
  const room = Math.max(0, available - weightBytes) * KV_SHARE;
  const kvMemory = input.kvMemory ?? Math.min(maxNumSeqs * oneSequence, Math.max(room, 4 * blockBytes));
  const fits = (Math.floor(kvMemory / blockBytes) - 1) * blockTokens;
  if (fits < blockTokens)
    throw new FiligreeError(
      'usage',
      `--kv-memory ${kvMemory} does not hold one block of ${blockBytes} bytes`,
    );
  if (input.maxModelLen !== undefined && fits < input.maxModelLen) {
    const need = Math.ceil(oneSequence / 2 ** 20);
    throw new FiligreeError(
      'usage',
      `--max-model-len ${input.maxModelLen} needs ${need} MiB of KV cache and there are ${Math.floor(kvMemory / 2 ** 20)}. ` +
        'Lower it, raise --kv-memory, or take --kv i8.',
    );
  }
  return { kvMemory: Math.floor(kvMemory), maxModelLen: Math.min(wanted, fits) };
}
