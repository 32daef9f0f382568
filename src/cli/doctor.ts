import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import { promisify } from 'node:util';
import { availableMemory, packageVersion } from '../config.js';
import { FiligreeError } from '../errors.js';
import type { KernelVariant } from '../native/index.js';

export interface DoctorReport {
  filigree: string;
  node: string;
  platform: string;
  cpu: string | null;
  isa: string | null;
  isas: string[];
  features: Record<string, boolean>;
  threads: { default: number; affinity: number } | null;
  memory: { total_bytes: number; available_bytes: number };
  /** When the kernel gives large buffers transparent huge pages; null where it does not say. */
  huge_pages: 'always' | 'madvise' | 'never' | null;
  read_gbps: { threads: number; gbps: number }[];
  /** The kernel that serves one token, 8 tokens and a prompt, by weight format and layout. */
  kernels: { format: string; layout: string; tokens: string; kernel: string; isa: string }[];
  gpu: { name: string; memory: string; driver: string }[];
  /** Those that --device cuda can use. */
  cuda: { name: string; compute_capability: string; free_bytes: number; usable_bytes: number }[];
  /** Why --tensor-parallel cannot divide a model among several; null where it can. */
  nccl_obstacle: string | null;
  /** Why --device cuda cannot be used here; null where it can. */
  cuda_obstacle: string | null;
  problems: string[];
}

/** NVIDIA's own tool knows the driver's view; its absence is no problem, it only means there is no such GPU. */
async function gpus(): Promise<DoctorReport['gpu']> {
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', [
      '--query-gpu=name,memory.total,driver_version',
      '--format=csv,noheader',
    ]);
    return stdout
      .trim()
      .split('\n')
      .map((line) => {
        const [name = '', memory = '', driver = ''] = line.split(',').map((part) => part.trim());
        return { name, memory, driver };
      });
  } catch {
    return [];
  }
}

/** The choice in brackets of "always [madvise] never". Weights ask for huge pages themselves: madvise is enough. */
function hugePages(): DoctorReport['huge_pages'] {
  const path = '/sys/kernel/mm/transparent_hugepage/enabled';
  if (!existsSync(path)) return null;
  const chosen = /\[(always|madvise|never)\]/.exec(readFileSync(path, 'utf8'))?.[1];
  return (chosen as DoctorReport['huge_pages'] | undefined) ?? null;
}

/** Of each format and layout, the kernels that run: best first, those whose token counts better ones already cover left out. */
function kernelsInUse(variants: KernelVariant[]): DoctorReport['kernels'] {
  const covered = new Map<string, [number, number][]>();
  const uses: DoctorReport['kernels'] = [];
  for (const k of variants) {
    if (!k.supported) continue;
    const key = `${k.format} ${k.layout}`;
    const ranges = covered.get(key) ?? [];
    covered.set(key, ranges);
    let next = k.minTokens;
    for (const [low, high] of [...ranges].sort((a, b) => a[0] - b[0]))
      if (low <= next && next <= high) next = high + 1;
    if (next > k.maxTokens) continue;
    ranges.push([k.minTokens, k.maxTokens]);
    const tokens = k.maxTokens >= 1_000_000 ? `${k.minTokens}+` : `${k.minTokens}-${k.maxTokens}`;
    uses.push({ format: k.format, layout: k.layout, tokens, kernel: k.name, isa: k.isa });
  }
  return uses;
}

export async function examine(measure: boolean): Promise<DoctorReport> {
  const report: DoctorReport = {
    filigree: packageVersion(),
    node: process.version,
    platform: `${process.platform} ${process.arch}`,
    cpu: null,
    isa: null,
    isas: [],
    features: {},
    threads: null,
    memory: { total_bytes: totalmem(), available_bytes: availableMemory() },
    huge_pages: hugePages(),
    read_gbps: [],
    kernels: [],
    gpu: await gpus(),
    cuda: [],
    nccl_obstacle: null,
    cuda_obstacle: null,
    problems: [],
  };
  const native = await import('../native/index.js');
  try {
    const info = await native.nativeInfo();
    report.cpu = info.cpu;
    report.isa = info.bestIsa;
    report.isas = info.isas;
    report.features = info.features;
    report.threads = { default: info.defaultThreads, affinity: info.affinityCpus };
    report.kernels = kernelsInUse(info.kernels);
    report.cuda_obstacle = info.cudaObstacle;
    const { gpus: usable, ncclObstacle } = await native.nativeGpus();
    report.cuda = usable.map((gpu) => ({
      name: gpu.name,
      compute_capability: gpu.computeCapability,
      free_bytes: gpu.freeBytes,
      usable_bytes: gpu.usableBytes,
    }));
    report.nccl_obstacle = ncclObstacle;
    if (report.gpu.length > 0 && info.cudaObstacle !== null)
      report.problems.push(`an NVIDIA GPU is here, but models run on the CPU: ${info.cudaObstacle}.`);
    if (measure)
      for (const threads of [...new Set([1, info.defaultThreads])])
        report.read_gbps.push({ threads, gbps: await native.measureReadBandwidth(threads) });
    if (info.isas.every((isa) => isa === 'scalar' || isa === 'auto'))
      report.problems.push(
        'no vector instruction set that this build knows: every kernel is the scalar reference, slow. Build on x86 with AVX2 or on ARMv8.2 with dotprod.',
      );
    if (info.defaultThreads < info.affinityCpus)
      report.problems.push(
        `a cgroup quota leaves ${info.defaultThreads} of ${info.affinityCpus} processors: more threads than that would be throttled.`,
      );
  } catch (error) {
    if (!(error instanceof FiligreeError)) throw error;
    report.problems.push(error.message);
  }
  if (report.huge_pages === 'never')
    report.problems.push(
      'transparent huge pages are off: reading weights misses the TLB at every 4 KiB. As root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
    );
  if (!existsSync('/proc/self/cgroup'))
    report.problems.push('no /proc: cgroup limits cannot be read, threads and memory follow the machine.');
  return report;
}

/** `filigree doctor`: what this machine can do, which kernels will be used, and what is missing. */
export async function doctorCommand(options: { json?: boolean; measure?: boolean }): Promise<void> {
  const report = await examine(options.measure !== false);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } else {
    const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    const has = Object.entries(report.features)
      .filter(([, yes]) => yes)
      .map(([name]) => name);
    const lines: [string, string][] = [
      ['filigree', `${report.filigree}, Node ${report.node}, ${report.platform}`],
      ['processor', report.cpu ?? 'unknown: the native addon did not load'],
      ['instruction set', `${report.isa ?? '–'} (--isa takes ${report.isas.join(', ')})`],
      ['features', has.join(', ') || 'none'],
      [
        'threads',
        report.threads ? `${report.threads.default} by default, ${report.threads.affinity} by affinity` : '–',
      ],
      [
        'memory',
        `${gib(report.memory.available_bytes)} free for this process of ${gib(report.memory.total_bytes)}`,
      ],
      [
        'huge pages',
        report.huge_pages === null
          ? 'unknown'
          : report.huge_pages === 'never'
            ? 'off'
            : `${report.huge_pages}: weights ask for them`,
      ],
      ...report.read_gbps.map(({ threads, gbps }): [string, string] => [
        `read, ${threads} thread${threads > 1 ? 's' : ''}`,
        `${gbps.toFixed(1)} GB/s`,
      ]),
      ['GPU', report.gpu.map((g) => `${g.name}, ${g.memory}, driver ${g.driver}`).join('; ') || 'none found'],
      [
        '--device cuda',
        report.cuda_obstacle === null ? 'can be used' : `cannot be used: ${report.cuda_obstacle}`,
      ],
      ...report.cuda.map((g, i): [string, string] => [
        `GPU ${i}`,
        `${g.name}, compute capability ${g.compute_capability}, ${gib(g.free_bytes)} free; weights and KV cache take up to ${gib(g.usable_bytes)}`,
      ]),
      ...(report.cuda.length > 1
        ? [
            [
              '--tensor-parallel',
              report.nccl_obstacle === null
                ? `up to ${report.cuda.length}`
                : `cannot be used: ${report.nccl_obstacle}`,
            ] as [string, string],
          ]
        : []),
    ];
    for (const [name, value] of lines) process.stdout.write(`${name.padEnd(18)}${value}\n`);
    if (report.kernels.length > 0) {
      const { default: Table } = await import('cli-table3');
      const table = new Table({
        head: ['weights', 'layout', 'tokens', 'kernel', 'instruction set'],
        style: { head: [], border: [], compact: true },
      });
      for (const k of report.kernels) table.push([k.format, k.layout, k.tokens, k.kernel, k.isa]);
      process.stdout.write(`\n${table.toString()}\n`);
    }
    for (const problem of report.problems) process.stdout.write(`\nmissing: ${problem}\n`);
  }
  if (report.cpu === null) process.exitCode = 1;
}
