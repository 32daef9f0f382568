import { createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { MODEL, missing, Program, program } from './processes.js';

const model = MODEL ?? '';
// bf16 holds the default model's weights closely enough for its greedy answer to be the reference's.
const FLAGS = ['--weights', 'bf16', '--kv-memory', '256MiB'];
const QUESTION = 'What is the capital of France?';

describe(`the command line${missing ? ` (${missing})` : ''}`, () => {
  it.skipIf(missing)(
    'says what is wrong in one line, with 2 for wrong usage and 1 for a failure',
    async () => {
      const wrong: [string[], number, RegExp][] = [
        [['fly'], 2, /unknown command 'fly'/],
        [['serve', '--port', 'x'], 2, /--port/],
        [['serve', '--fly'], 2, /unknown option '--fly'/],
        [['serve', model, '--max-model-len', '1000000'], 2, /positions that the model has/],
        [['serve', model, '--kv-memory', '1KiB'], 2, /does not hold one block/],
        [['run', '/nowhere', 'Hi'], 1, /nowhere/],
        [['run', model, '--json'], 2, /nothing to say/],
        [['serve', model, '--isa', 'abacus'], 2, /abacus/],
        [['eval', model, '--tasks', 'chess'], 2, /no task 'chess'/],
        [['eval', model, '--data', '/nowhere'], 1, /no such folder/],
        [['eval', model, '--tasks', 'humaneval'], 2, /--allow-code-execution/],
      ];
      for (const [args, code, says] of wrong) {
        const ended = await program(args);
        expect([args.join(' '), ended.code], ended.stderr).toEqual([args.join(' '), code]);
        expect(ended.stderr).toMatch(says);
        expect(ended.stderr).not.toMatch(/\n\s+at /);
        expect(ended.stdout).toBe('');
      }
    },
  );

  it.skipIf(missing)('has help with examples for every command', async () => {
    for (const command of [[], ['serve'], ['run'], ['bench'], ['eval'], ['inspect'], ['doctor']]) {
      const { code, stdout } = await program([...command, '--help']);
      expect([command, code]).toEqual([command, 0]);
      expect(stdout).toMatch(/Examples?:/);
    }
    expect((await program(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe.skipIf(missing)(`run${missing ? ` (${missing})` : ''}`, () => {
  it('answers a prompt, as text and as JSON', async () => {
    const plain = await program([
      'run',
      model,
      QUESTION,
      '--temperature',
      '0',
      '--max-tokens',
      '20',
      ...FLAGS,
    ]);
    expect(plain.code, plain.stderr).toBe(0);
    expect(plain.stdout).toContain('Paris');
    const json = await program([
      'run',
      model,
      QUESTION,
      '--temperature',
      '0',
      '--max-tokens',
      '20',
      '--json',
      ...FLAGS,
    ]);
    const answer = JSON.parse(json.stdout);
    expect(`${answer.text}\n`).toBe(plain.stdout);
    expect(answer.usage.completion_tokens).toBeGreaterThan(1);
    expect(answer.timings.ttft_ms).toBeGreaterThan(0);
    expect(answer.timings.decode_tps).toBeGreaterThan(0);
    expect(answer.timings.prefill_tps).toBeGreaterThan(0);
  });

  it('takes piped input as the prompt', async () => {
    const args = ['run', model, '--temperature', '0', '--max-tokens', '20', ...FLAGS];
    const { code, stdout, stderr } = await program(args, `${QUESTION}\n`);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain('Paris');
  });

  it('stops the answer on Ctrl-C and ends well', async () => {
    const running = new Program(['run', model, 'Count to a thousand.', '--temperature', '0', ...FLAGS]);
    while (running.stdout === '' && running.child.exitCode === null)
      await new Promise((r) => setTimeout(r, 20));
    running.kill('SIGINT');
    const { code, stdout, stderr } = await running.end();
    expect(code, stderr).toBe(0);
    expect(stdout.length).toBeLessThan(10_000);
  });
});

describe.skipIf(missing)(`eval${missing ? ` (${missing})` : ''}`, () => {
  it('scores the items that come along, and a model recovers all of itself', async () => {
    const args = [
      '--tasks',
      'piqa,wikitext2',
      '--window',
      '256',
      '--limit',
      '3',
      '--weights',
      'i8',
      '--json',
    ];
    const { code, stdout, stderr } = await program(['eval', model, ...args, '--compare', model]);
    expect(code, stderr).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ data: 'builtin', format: expect.stringContaining('i8') });
    expect(Object.keys(report.tasks)).toEqual(['piqa', 'wikitext2']);
    expect(report.tasks.piqa).toMatchObject({ metric: 'acc_norm', n: 3, fewshot: 0 });
    expect(report.tasks.wikitext2.value).toBeGreaterThan(5);
    expect(report.tasks.wikitext2.value).toBeLessThan(60);
    expect(report.compare.wikitext2).toMatchObject({
      difference: { value: 0, stderr: 0 },
      recovery: { value: 1 },
    });
  });
});

describe.skipIf(missing)(`serve${missing ? ` (${missing})` : ''}`, () => {
  let server: Program | null = null;
  afterEach(async () => {
    server?.kill('SIGKILL');
    await server?.end();
    server = null;
  });
  const start = async (...args: string[]) => {
    server = new Program(['serve', model, '--port', '0', ...FLAGS, ...args]);
    return { server, ...(await server.ready()) };
  };
  const ask = (url: string, body: object) =>
    fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        messages: [{ role: 'user', content: QUESTION }],
        temperature: 0,
        max_tokens: 20,
        ...body,
      }),
    });

  it('announces itself, answers, and ends with 0 on SIGTERM', async () => {
    const { server, event, url, model: name, load_ms } = await start('--served-model-name', 'smol');
    expect([event, name]).toEqual(['ready', 'smol']);
    expect(load_ms).toBeGreaterThan(0);
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    const answer = (await (await ask(url, {})).json()) as { choices: { message: { content: string } }[] };
    expect(answer.choices[0]?.message.content).toContain('Paris');
    server.kill();
    const { code, stdout } = await server.end();
    expect(code).toBe(0);
    expect(stdout.trim().split('\n')).toHaveLength(1);
  });

  it('finishes running answers before it goes, and refuses new ones', async () => {
    const { server, url } = await start();
    const response = await ask(url, { stream: true, max_tokens: 150, ignore_eos: true });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    server.kill();
    // The socket stays open for those who ask until the last answer is out.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const ready = await fetch(`${url}/ready`).catch(() => null);
    if (ready !== null) expect(ready.status).toBe(503);
    let text = '';
    for (let part = await reader.read(); !part.done; part = await reader.read())
      text += Buffer.from(part.value);
    expect(text).toContain('"finish_reason":"length"');
    expect(text).toContain('data: [DONE]');
    expect((await server.end()).code).toBe(0);
  });

  it('breaks off after the drain timeout, and at once on a second signal', async () => {
    const first = await start('--drain-timeout', '0.2');
    const response = await ask(first.url, { stream: true, max_tokens: 5000, ignore_eos: true });
    first.server.kill();
    const text = await response.text();
    expect(text).toContain('"code":"server_draining"');
    expect((await first.server.end()).code).toBe(0);

    const second = await start('--drain-timeout', '60');
    const hanging = await ask(second.url, { stream: true, max_tokens: 5000, ignore_eos: true });
    second.server.kill();
    await new Promise((resolve) => setTimeout(resolve, 200));
    second.server.kill();
    const { code } = await second.server.end();
    expect(code).toBe(143);
    await hanging.text().catch(() => '');
  });

  it('says at once that its port is taken', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as { port: number };
    const { code, stderr } = await program(['serve', model, '--port', String(port)]);
    other.close();
    expect(code).toBe(1);
    expect(stderr).toContain(`127.0.0.1:${port} is taken`);
  });
});
