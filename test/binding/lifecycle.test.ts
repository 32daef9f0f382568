import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { GREEDY } from '../../src/engine/model-runner.js';
import { addonCandidates } from '../../src/native/load-addon.js';
import { entry, greedy, load, manifest, prompt } from './support.js';

/** What other processes and threads load, by the addon alone. */
const addon = addonCandidates().find((file) => statSync(file, { throwIfNoEntry: false })) as string;
const { config, files, tensors } = manifest;
const bare = { config, files, tensors, sourceKey: '' };
const options = {
  weights: 'i8',
  dense: false,
  kv: 'f16',
  threads: 2,
  isa: 'auto',
  maxModelLen: 128,
  maxSlots: 4,
  maxBatchedTokens: 128,
  kvBytes: 16 << 20,
  cacheFolder: '',
};

describe('life and death', () => {
  test('a closed model rejects a step and throws on openSlot; closing twice is closing once', async () => {
    const runner = await load();
    greedy(runner, 0, prompt(1, 4));
    const inFlight = runner.step({ entries: [entry(0, prompt(1, 4))], copies: [] });
    await Promise.all([runner.close(), runner.close()]);
    expect((await inFlight)[0]!.token).toBeGreaterThanOrEqual(0);
    await expect(runner.step({ entries: [], copies: [] })).rejects.toThrow(/closed/);
    expect(() => greedy(runner, 0, prompt(1, 4))).toThrow(/closed/);
    expect(() => runner.closeSlot(0)).not.toThrow();
  });

  test('a process ends with status 0 whatever its engines are doing', { timeout: 60_000 }, async () => {
    const code = `
      const [addon, manifest, options, when] = JSON.parse(process.argv[1]);
      const { Engine } = require(addon);
      (async () => {
        for (let i = 0; i < 4; i++) {
          const engine = new Engine();
          const loading = engine.load(manifest, options);
          if (when === 'loading') continue;
          await loading;
          if (when === 'stepping') for (let n = 0; n < 20; n++)
            engine.step(new Int32Array(0), new Int32Array(0), new Int32Array(0), Int32Array.of(0, 1)).catch(() => {});
          if (when === 'closed') await engine.close();
        }
        if (when !== 'idle') process.exit(0);
      })();`;
    for (const when of ['loading', 'idle', 'stepping', 'closed']) {
      const argument = JSON.stringify([addon, bare, options, when]);
      const child = spawnSync(process.execPath, ['-e', code, argument], { encoding: 'utf8' });
      expect({ when, status: child.status, signal: child.signal, stderr: child.stderr }).toEqual({
        when,
        status: 0,
        signal: null,
        stderr: '',
      });
    }
  });

  test('a worker thread may end with an engine loading, idle or in a step', { timeout: 60_000 }, async () => {
    const workerData = { addon, manifest: bare, options, params: GREEDY };
    const code = `
      const { workerData: w, parentPort } = require('node:worker_threads');
      const engine = new (require(w.addon).Engine)();
      const loading = engine.load(w.manifest, w.options);
      if (w.when === 'loading') parentPort.postMessage('now');
      else loading.then(() => {
        if (w.when === 'stepping') {
          const tokens = new Int32Array(100).fill(5);
          engine.openSlot(0, w.params, tokens, new Int32Array(0));
          for (let i = 0; i < 50; i++)
            engine.step(Int32Array.of(0, 0, 100, 7, 1), tokens, Int32Array.of(0, 1, 2, 3, 4, 5, 6), new Int32Array(0));
        }
        parentPort.postMessage('now');
      });`;
    for (const when of ['loading', 'idle', 'stepping'])
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(code, { eval: true, workerData: { ...workerData, when } });
        const ended = new Promise<number>((resolve, reject) =>
          worker.once('exit', resolve).once('error', reject),
        );
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
        await worker.terminate();
        // 1: it was stopped; 0: it had nothing left to do and was faster.
        expect([0, 1]).toContain(await ended);
      }
  });
});
