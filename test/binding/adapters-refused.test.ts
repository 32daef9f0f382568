import { describe, expect, test } from 'vitest';
import { GREEDY } from '../../src/engine/model-runner.js';
import { openAdapter } from '../../src/model/index.js';
import { TINY } from '../compress/tiny.js';
import { CPU_ONLY } from '../device.js';
import { AdapterFolder, type Pair } from '../unit/model/adapter-folder.js';
import { kept, MODULES, pairsOf, tiny, tokens } from './adapter-models.js';
import { load, NONE } from './support.js';

const skipped = CPU_ONLY ? ` (${CPU_ONLY})` : '';

describe.skipIf(CPU_ONLY)(`the addon trusts no description of an adapter${skipped}`, async () => {
  const base = await tiny();
  const opened = openAdapter('x', kept(new AdapterFolder(pairsOf(MODULES, 13, TINY))).path, base);
  type Opened = typeof opened;
  const lie = (change: (copy: Opened) => void): Opened => {
    const copy = structuredClone(opened);
    change(copy);
    return copy;
  };
  const first = (copy: Opened) => copy.pairs[0] as Opened['pairs'][0];
  for (const [what, adapter, message] of [
    [
      'a layer that is not there',
      lie((c) => {
        first(c).layer = 9;
      }),
      /no such layer/,
    ],
    [
      'a pair given twice',
      lie((c) => {
        c.pairs.push(first(c));
      }),
      /changed twice/,
    ],
    [
      'a pair on another matrix',
      lie((c) => {
        first(c).target = 'down_proj';
      }),
      /wants 160 columns|changed twice/,
    ],
    [
      'A and B exchanged',
      lie((c) => {
        const p = first(c);
        [p.a, p.b] = [p.b, p.a];
      }),
      /64 columns/,
    ],
    [
      'a tensor beyond the file',
      lie((c) => {
        (first(c).a.parts.data as { offset: number }).offset = 1e9;
      }),
      /tensor/,
    ],
    [
      'a scale that overflows',
      lie((c) => {
        first(c).scale = 1e39;
      }),
      /NaN or an infinity/,
    ],
  ] as const)
    test(what, async () => {
      await expect(load({ adapters: [adapter] }, base)).rejects.toThrow(message);
      await expect(load({ adapters: [adapter] }, base)).rejects.toMatchObject({ code: 'model_invalid' });
    });

  test('values that are not finite', async () => {
    const pairs = pairsOf(['mlp.up_proj'], 14, TINY);
    (pairs[0] as Pair).b[5] = Number.NaN;
    const adapter = openAdapter('bad', kept(new AdapterFolder(pairs)).path, base);
    await expect(load({ adapters: [adapter] }, base)).rejects.toThrow(
      /adapter bad, tensor base_model.model.model.layers.0.mlp.up_proj.lora_B.weight: .*NaN/,
    );
  });

  test('an index that is no adapter of the engine', async () => {
    const runner = await load({ adapters: [opened] }, base);
    expect(() => runner.openSlot(0, GREEDY, tokens(1, 3), NONE, 'y')).toThrow('there is no adapter y');
    const { engine } = runner as unknown as { engine: { openSlot(...args: unknown[]): void } };
    expect(() => engine.openSlot(0, GREEDY, tokens(1, 3), NONE, 1)).toThrow(/the adapter must be 0 to 0/);
    expect(() => engine.openSlot(0, GREEDY, tokens(1, 3), NONE, 'x')).toThrow(TypeError);
  });
});

test('a GPU refuses adapters, with or without one in the machine; `auto` takes the CPU for them', async () => {
  const base = await tiny();
  const adapters = [openAdapter('x', kept(new AdapterFolder(pairsOf(MODULES, 13, TINY))).path, base)];
  await expect(load({ adapters, device: 'cuda' }, base)).rejects.toThrow(/served on the CPU only/);
  expect((await load({ adapters, device: 'auto' }, base)).info.device).toBe('cpu');
});
