import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compare } from '../../../bench/compare.js';
import type { Contestant } from '../../../bench/contestant.js';
import { besideBusyNeighbour } from '../../../bench/neighbour.js';
import { llamaBench, serverPeer } from '../../../bench/peers.js';
import { writeRandomGguf } from '../../../bench/random-gguf.js';
import { markdown, table } from '../../../bench/report.js';
import { openModel } from '../../../src/model/index.js';
import { loadNativeRunner } from '../../../src/native/index.js';

const folder = mkdtempSync(join(tmpdir(), 'filigree-peers-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A contestant whose speed in round i is speeds[i]. */
function scripted(engine: string, format: string, speeds: number[], batches = [1, 8]): Contestant {
  let round = 0;
  return {
    engine,
    format,
    sparsity: format.includes('sparse') ? 0.7 : 0,
    weightBytes: 1e6,
    baseline: format === 'f32 dense',
    stepBytes: () => (engine === 'filigree' ? 1e6 : null),
    async measure(point) {
      const tokens = speeds[round++]!;
      const decode = point.batches
        .filter((b) => batches.includes(b))
        .map((b) => [b, { seconds: 1, tokens: tokens * b }] as const);
      return { prefill: { seconds: 1, tokens: tokens * 10 }, decode: new Map(decode) };
    },
    close: async () => {},
  };
}

const options = {
  model: 'm',
  machine: { cpu: 'c', isa: 'i', threads: 1 },
  batches: [1, 8],
  prompt: 4,
  context: 2,
  rounds: 3,
  measureBandwidth: async () => 0.1,
};

describe('a comparison', () => {
  test('forms ratios within a round, so that a slow minute hits both sides', async () => {
    const { rows } = await compare(
      [
        scripted('filigree', 'f32 dense', [10, 1, 10]),
        scripted('filigree', 'i4 sparse', [80, 8, 90]),
        scripted('peer a', 'q4', [40, 4, 30], [1]),
        scripted('peer b', 'q8', [20, 2, 20]),
      ],
      options,
    );
    const row = (format: string, batch: number) =>
      rows.find((r) => r.format === format && r.batch === batch)!;
    expect(row('i4 sparse', 1).x_dense_f32).toBe(8);
    expect(row('i4 sparse', 1).x_best_peer).toBe(2);
    // Peer a does not decode eight at once: there the best peer is b.
    expect(row('i4 sparse', 8).x_best_peer).toBe(4);
    expect(rows.filter((r) => r.format === 'q4')).toHaveLength(1);
    expect(row('q8', 1).x_best_peer).toBeNull();
    expect(row('q8', 1).decode_gbps).toBeNull();
    expect(row('f32 dense', 1).x_bound).toBeCloseTo((10 * 1e6) / 1e9 / 0.1);
  });

  test('shows the columns of peers only where there are peers', async () => {
    const alone = await compare([scripted('filigree', 'f32 dense', [1, 1, 1])], options);
    expect(table(alone)).not.toContain('peer');
    const both = await compare(
      [scripted('filigree', 'f32 dense', [1, 1, 1]), scripted('peer', 'q4', [2, 2, 2])],
      options,
    );
    expect(markdown(both)).toMatch(/decode x peer/);
    expect(table(both)).toContain('0.50');
  });
});

describe('beside a busy neighbour', () => {
  test('every contestant is measured again, and the row says what is left of its quiet speed', async () => {
    const { rows } = await compare([scripted('filigree', 'f32 dense', [10, 6, 10, 5, 20, 20], [1])], {
      ...options,
      batches: [1],
      neighbour: true,
    });
    expect(rows[0]!.x_quiet).toBe(0.6);
    expect(rows[0]!.decode_tps).toBe(10);
    const quiet = await compare([scripted('filigree', 'f32 dense', [10, 10, 10], [1])], options);
    expect(quiet.rows[0]!.x_quiet).toBeNull();
  });

  test('the neighbour keeps a core busy while the work goes on, and is gone after it, also after a failure', async () => {
    const children = () => readdirSync('/proc').filter((pid) => parentOf(pid) === process.pid);
    const before = children();
    const started = await besideBusyNeighbour(async () => {
      const [pid] = children().filter((child) => !before.includes(child));
      return { pid: pid!, ticks: await ticksWithin(pid!, 300) };
    });
    expect(started.ticks).toBeGreaterThan(0);
    await expect(besideBusyNeighbour(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(children()).toEqual(before);
  });
});

const stat = (pid: string) =>
  readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
function parentOf(pid: string): number {
  try {
    return Number(stat(pid)[1]);
  } catch {
    return 0; // no process, or one that has ended
  }
}
/** Processor time that a process takes in so many milliseconds, in hundredths of a second. */
async function ticksWithin(pid: string, ms: number): Promise<number> {
  const before = Number(stat(pid)[11]);
  await new Promise((resolve) => setTimeout(resolve, ms));
  return Number(stat(pid)[11]) - before;
}

describe('a random GGUF', () => {
  test('of q8_0 may have zeros, which are stored sparse; its head stays dense', async () => {
    const path = join(folder, 'sparse.gguf');
    writeRandomGguf(path, '135m', 'q8_0', 0.7);
    const runner = await loadNativeRunner(await openModel(path), {
      weights: 'i8',
      dense: false,
      kv: 'f16',
      maxModelLen: 64,
      maxSlots: 1,
      maxBatchedTokens: 16,
      packedCache: false,
    });
    // 106 of 135 million weights are in the layers.
    expect(runner.info.sparsity).toBeCloseTo(0.7 * 0.79, 1);
    await runner.close();
    expect(() => writeRandomGguf(path, '135m', 'q4_0', 0.7)).toThrow(/q8_0/);
  });

  test.each(['q4_0', 'q8_0', 'f16'] as const)(
    'of type %s is a model that our own reader runs',
    async (type) => {
      const path = join(folder, `135m-${type}.gguf`);
      writeRandomGguf(path, '135m', type);
      const manifest = await openModel(path);
      expect(manifest.config).toMatchObject({
        hiddenSize: 576,
        numLayers: 30,
        tieWordEmbeddings: true,
        vocabSize: 49152,
      });
      expect(manifest.tensors.find((t) => t.name === 'model.layers.3.mlp.down_proj.weight')).toMatchObject({
        encoding: type,
        shape: [576, 1536],
      });
      if (type !== 'q4_0') return;
      const runner = await loadNativeRunner(manifest, {
        weights: 'auto',
        dense: false,
        kv: 'f16',
        maxModelLen: 64,
        maxSlots: 1,
        maxBatchedTokens: 16,
        packedCache: false,
      });
      runner.openSlot(
        0,
        (await import('../../../src/engine/model-runner.js')).GREEDY,
        Int32Array.of(5),
        new Int32Array(0),
      );
      const [output] = await runner.step({
        copies: [],
        entries: [
          { slot: 0, tokens: Int32Array.of(5), position: 0, blockTable: Int32Array.of(0), sample: true },
        ],
      });
      expect(output).toMatchObject({ slot: 0, error: null });
      await runner.close();
    },
  );

  test('whose columns are no whole number of blocks is refused by name', () => {
    expect(() => writeRandomGguf(join(folder, 'x.gguf'), '135m', 'q4_k')).toThrow(/576 columns/);
  });
});

describe('peers', () => {
  test('a server is timed by its stream', async () => {
    const server = createServer((request, response) => {
      if (request.url === '/v1/models') return void response.end(JSON.stringify({ data: [{ id: 'them' }] }));
      if (request.url !== '/v1/completions') return void response.writeHead(404).end();
      let body = '';
      request.on('data', (chunk) => (body += chunk));
      request.on('end', async () => {
        const { max_tokens } = JSON.parse(body) as { max_tokens: number };
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        for (let i = 0; i < max_tokens; ++i) {
          await new Promise((resolve) => setTimeout(resolve, 20));
          response.write(`data: {"choices":[{"text":"w"}]}\n\n`);
        }
        response.write(
          `data: {"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":${max_tokens}}}\n\ndata: [DONE]\n\n`,
        );
        response.end();
      });
    }).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    const peer = await serverPeer('them', `http://127.0.0.1:${port}`, {
      threads: 1,
      generate: 6,
      timeoutSeconds: 20,
    });
    expect(peer.format).toBe('them');
    // 20 ms a token: at most 50 a second each. A first token that is read late makes the others look faster, now and then; a token
    // counted twice would do so every time, so the slowest of three measures is judged.
    const slowest = new Map<number, number>();
    for (let i = 0; i < 3; ++i) {
      const { prefill, decode } = await peer.measure({ prompt: 40, context: 10, batches: [1, 3] });
      expect(prefill.tokens).toBe(40);
      expect(prefill.seconds).toBeGreaterThan(0.015);
      for (const batch of [1, 3]) {
        const each = decode.get(batch)!.tokens / batch;
        expect(each).toBeGreaterThan(1);
        slowest.set(batch, Math.min(each, slowest.get(batch) ?? Infinity));
      }
    }
    expect(slowest.get(1)).toBeLessThanOrEqual(51);
    expect(slowest.get(3)).toBeLessThanOrEqual(51);
    server.close();
  });

  test('a program that fails is an error with its name and its last word', async () => {
    const gguf = join(folder, '135m-q4_0.gguf');
    const peer = llamaBench('/bin/false', gguf, { threads: 1, generate: 4, timeoutSeconds: 10 });
    await expect(peer.measure({ prompt: 1, context: 1, batches: [1] })).rejects.toThrow(
      /\/bin\/false failed/,
    );
  });
});
