import { truncateSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { denseModel, noise } from '../compress/tiny.js';
import { AdapterFolder } from '../unit/model/adapter-folder.js';
import { missingProgram, Program, program } from './processes.js';

const random = noise(1);
const values = (n: number) => Float32Array.from({ length: n }, () => 0.3 * random());
const adapterOf = (rows: number) =>
  new AdapterFolder([
    { module: 'layers.1.self_attn.v_proj', rank: 4, a: values(4 * 64), b: values(rows * 4) },
  ]);

describe(`serve --lora${missingProgram ? ` (${missingProgram})` : ''}`, () => {
  const model = denseModel();
  const good = adapterOf(32);
  const damaged = adapterOf(32);
  const wrong = adapterOf(48);
  truncateSync(join(damaged.path, 'adapter_model.safetensors'), 300);
  const serve = ['serve', model.path, '--port', '0', '--kv-memory', '16MiB', '--threads', '1'];
  afterAll(() => {
    for (const folder of [model, good, damaged, wrong]) folder[Symbol.dispose]();
  });

  it.skipIf(missingProgram)('answers under the name of each adapter', async () => {
    const server = new Program([...serve, '--lora', `a=${good.path}`, '--served-model-name', 'base']);
    try {
      const { url } = await server.ready();
      const ask = async (name: string) => {
        const body = JSON.stringify({
          model: name,
          prompt: [5, 6, 7, 8, 9],
          max_tokens: 8,
          temperature: 0,
          logprobs: 0,
          ignore_eos: true,
        });
        const headers = { 'content-type': 'application/json' };
        const answer = await fetch(`${url}/v1/completions`, { method: 'POST', headers, body });
        // biome-ignore lint/suspicious/noExplicitAny: a client's view
        const json = (await answer.json()) as any;
        return {
          status: answer.status,
          model: json.model,
          logprobs: json.choices?.[0].logprobs.token_logprobs,
        };
      };
      const base = await ask('base');
      const adapted = await ask('a');
      expect([base.status, adapted.status, adapted.model]).toEqual([200, 200, 'a']);
      expect(adapted.logprobs).not.toEqual(base.logprobs);
      expect(await ask('a')).toEqual(adapted);
      expect(await ask('base')).toEqual(base);
      expect((await ask('b')).status).toBe(404);
    } finally {
      server.kill();
      expect((await server.end()).code).toBe(0);
    }
  });

  it.skipIf(missingProgram)('says in one line what is wrong with an adapter', async () => {
    const WRONG: [string[], number, RegExp][] = [
      [['--lora', 'a'], 2, /A name and a folder/],
      [['--lora', `a=${good.path}`, '--lora', `a=${good.path}`], 2, /Two adapters are called a/],
      [['--lora', `m=${good.path}`, '--served-model-name', 'm'], 2, /the model itself is called so/],
      [['--lora', `a=${good.path}`, '--device', 'cuda'], 1, /served on the CPU only/],
      [['--lora', 'a=/nowhere'], 1, /adapter a: there is no folder \/nowhere/],
      [['--lora', `a=${damaged.path}`], 1, /adapter a: .*truncated/],
      [['--lora', `a=${wrong.path}`], 1, /adapter a: tensor .* has shape \[48,4\].* call for \[32,4\]/],
    ];
    for (const [flags, code, says] of WRONG) {
      const ended = await program([...serve, '--log-level', 'silent', ...flags]);
      expect([flags.join(' '), ended.code], ended.stderr).toEqual([flags.join(' '), code]);
      expect(ended.stderr).toMatch(/^filigree: [^\n]+\n$/);
      expect(ended.stderr).toMatch(says);
      expect(ended.stdout).toBe('');
    }
  });
});
