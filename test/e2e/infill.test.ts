import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cacheFolder } from '../../src/model/resolve.js';
import { missingProgram, Program } from './processes.js';

/** A code model with fill-in-the-middle tokens: FILIGREE_TEST_CODER, or Qwen2.5-Coder where `pull` puts it. */
const NAMES = ['qwen2.5-coder-1.5b-instruct-q4_k_m.gguf', 'qwen2.5-coder-1.5b-q4_k_m.gguf'];
const CODER = [
  process.env.FILIGREE_TEST_CODER,
  ...NAMES.map((name) => join(cacheFolder(), 'models', name)),
].find((path): path is string => path !== undefined && existsSync(path));
const without =
  CODER === undefined
    ? 'skipped, no Qwen2.5-Coder: filigree pull Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF, or set FILIGREE_TEST_CODER'
    : missingProgram;

describe.skipIf(without)(`suffix on a code model${without ? ` (${without})` : ''}`, () => {
  let server: Program;
  let url: string;
  beforeAll(async () => {
    server = new Program([
      'serve',
      CODER as string,
      '--port',
      '0',
      '--max-model-len',
      '1024',
      '--max-num-seqs',
      '4',
    ]);
    ({ url } = await server.ready());
  }, 240_000);
  afterAll(async () => {
    server.kill();
    expect((await server.end()).code).toBe(0);
  });

  const ask = async (body: object) =>
    fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ max_tokens: 32, temperature: 0, ...body }),
    });
  const fill = async (prompt: string, suffix: string) => {
    const { choices, usage } = (await (await ask({ prompt, suffix })).json()) as {
      choices: { text: string; finish_reason: string }[];
      usage: { completion_tokens: number };
    };
    return { ...(choices[0] as (typeof choices)[0]), tokens: usage.completion_tokens };
  };

  it('writes what is missing, and stops where the suffix begins', async () => {
    const sum = await fill(
      'def add(a, b):\n    """Return the sum of a and b."""\n    return ',
      '\n\n\nprint(add(2, 3))\n',
    );
    expect(sum.text.trim()).toBe('a + b');
    expect(sum.finish_reason).toBe('stop');
    const even = await fill(
      'def is_even(n):\n    if n % 2 == ',
      ':\n        return True\n    return False\n',
    );
    expect(even.text.trim()).toBe('0');
    expect(even.finish_reason).toBe('stop');
    // What the suffix says decides the middle.
    const square = await fill('def power(x):\n    return ', '  # the square of x\n');
    expect(square.text.replaceAll(' ', '')).toMatch(/^(x\*\*2|x\*x|pow\(x,2\))/);
  }, 120_000);

  it('streams the same', async () => {
    const body = {
      prompt: 'def area(width, height):\n    return ',
      suffix: '\n\n\nprint(area(2, 3))  # 6\n',
    };
    const whole = await fill(body.prompt, body.suffix);
    const text = (await (await ask({ ...body, stream: true })).text())
      .split('\n\n')
      .filter((part) => part.startsWith('data: {'))
      .map((part) => JSON.parse(part.slice(6)).choices[0]?.text ?? '')
      .join('');
    expect(text).toBe(whole.text);
    expect(text.trim()).toBe('width * height');
  }, 120_000);
});
