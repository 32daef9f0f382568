import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { openModel } from '../../../src/model/index.js';
import { describeTensors } from './describe.js';

const models = fileURLToPath(new URL('../../fixtures/models/', import.meta.url));

it.each(['tiny-compressed', 'tiny.gguf'])('%s: tensors as the native tests read them', async (name) => {
  const manifest = await openModel(`${models}${name}`);
  await expect(describeTensors(manifest)).toMatchFileSnapshot(`${models}${name}.tensors`);
  expect(manifest.problems).toEqual([]);
});
