import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { babbles, byteId, EOS, type Fixture, type Script, serve, VOCAB } from '../unit/server/fixture.js';
import { TEMPLATES } from '../unit/server/templates.js';

/**
 * Tools through the routes that OpenAI's and Anthropic's own clients use: a call, streamed and whole, in the shape that the
 * clients' types promise; the turn that brings its result; and a call that is guaranteed where the model would rather babble.
 */

const parameters = {
  type: 'object' as const,
  properties: {
    city: { type: 'string', enum: ['Rome', 'Oslo'] },
    days: { type: 'integer', minimum: 1, maximum: 9 },
  },
  required: ['city', 'days'],
  additionalProperties: false,
};
const FIRST = { city: 'Rome', days: 3 };
const SECOND = { city: 'Oslo', days: 1 };

/** How a family writes one call, or two where it can. */
const ANSWERS: Record<string, string> = {
  'llama3.1': '{"name": "trip", "parameters": {"city": "Rome", "days": 3}}',
  'qwen2.5':
    'Let me see.\n<tool_call>\n{"name": "trip", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>\n<tool_call>\n{"name": "trip", "arguments": {"city": "Oslo", "days": 1}}\n</tool_call>',
  'mistral-v0.3':
    '[TOOL_CALLS][{"name": "trip", "arguments": {"city": "Rome", "days": 3}}, {"name": "trip", "arguments": {"city": "Oslo", "days": 1}}]',
  smollm2:
    '<tool_call>[{"name": "trip", "arguments": {"city": "Rome", "days": 3}}, {"name": "trip", "arguments": {"city": "Oslo", "days": 1}}]</tool_call>',
  hermes3:
    '<tool_call>\n{"name": "trip", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>\n<tool_call>\n{"name": "trip", "arguments": {"city": "Oslo", "days": 1}}\n</tool_call>',
};

/** Says a text in which the family's control tokens are tokens. */
function speaks(text: string, controls: readonly string[]): Script {
  const ids: number[] = [];
  for (let at = 0; at < text.length; ) {
    const control = controls.findIndex((token) => text.startsWith(token, at));
    if (control >= 0) {
      ids.push(VOCAB + control);
      at += (controls[control] as string).length;
    } else ids.push(byteId(text.charCodeAt(at++)));
  }
  return (_prompt, generated) => ids[generated] ?? EOS;
}

let fixture: Fixture;
let openai: OpenAI;
let anthropic: Anthropic;
let prompts: string[];

afterEach(async () => {
  fixture.app.server.closeAllConnections();
  fixture.engine.check();
  expect(fixture.engine.stats().usedBlocks).toBe(0);
  await fixture.close();
});

describe.each(TEMPLATES)('tools of $name', ({ name, template, controls }) => {
  const answer = ANSWERS[name] as string;
  const calls = name === 'llama3.1' ? [FIRST] : [FIRST, SECOND];
  const said = name === 'qwen2.5' ? 'Let me see.' : '';
  const call = speaks(answer, controls);

  beforeEach(async () => {
    fixture = await serve(call, { template, controls, runner: { maxModelLen: 8192, numBlocks: 2048 } });
    await fixture.app.listen({ host: '127.0.0.1', port: 0 });
    const { port } = fixture.app.server.address() as { port: number };
    openai = new OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey: 'any', maxRetries: 0 });
    anthropic = new Anthropic({ baseURL: `http://127.0.0.1:${port}`, apiKey: 'any', maxRetries: 0 });
    prompts = [];
    const open = fixture.runner.openSlot.bind(fixture.runner);
    fixture.runner.openSlot = (slot, params, prompt, output) => {
      prompts.push(fixture.service.model.tokenizer.decode(prompt, { skipSpecial: false }));
      open(slot, params, prompt, output);
    };
  });

  const model = 'test-model';
  const responseTools = [
    { type: 'function' as const, name: 'trip', description: 'Plan a trip', parameters, strict: false },
  ];
  const messageTools = [{ name: 'trip', description: 'Plan a trip', input_schema: parameters }];

  it("OpenAI's client: a response calls, streamed and whole, and reads the result", async () => {
    const whole = await openai.responses.create({ model, input: 'Go', tools: responseTools });
    expect(prompts[0]).toContain('Plan a trip');
    const made = whole.output.filter((item) => item.type === 'function_call');
    expect(made.map((item) => [item.name, item.status, JSON.parse(item.arguments)])).toEqual(
      calls.map((args) => ['trip', 'completed', args]),
    );
    expect(new Set(made.map((item) => item.call_id)).size).toBe(calls.length);
    expect(whole.output_text).toBe(said);

    const stream = openai.responses.stream({ model, input: 'Go', tools: responseTools });
    const fragments = new Map<string, string>();
    const finished: [string, string][] = [];
    for await (const event of stream) {
      if (event.type === 'response.function_call_arguments.delta')
        fragments.set(event.item_id, (fragments.get(event.item_id) ?? '') + event.delta);
      if (event.type === 'response.function_call_arguments.done')
        finished.push([event.item_id, event.arguments]);
    }
    expect(finished).toEqual([...fragments]);
    expect(finished.map(([, text]) => JSON.parse(text))).toEqual(calls);
    const streamed = (await stream.finalResponse()).output.filter((item) => item.type === 'function_call');
    expect(streamed.map((item) => item.arguments)).toEqual(made.map((item) => item.arguments));

    fixture.runner.script = speaks('Done.', []);
    const result = made.map(({ call_id }, i) => ({
      type: 'function_call_output' as const,
      call_id,
      output: `booked number ${i}`,
    }));
    const last = await openai.responses.create({
      model,
      input: result,
      tools: responseTools,
      previous_response_id: whole.id,
    });
    expect(last.output_text).toBe('Done.');
    for (let i = 0; i < calls.length; i++) expect(prompts.at(-1)).toContain(`booked number ${i}`);
    expect(prompts.at(-1)).toContain('"Rome"');
  });

  it("Anthropic's client: a message calls, streamed and whole, and reads the result", async () => {
    const body = {
      model,
      max_tokens: 400,
      tools: messageTools,
      messages: [{ role: 'user' as const, content: 'Go' }],
    };
    const whole = await anthropic.messages.create(body);
    expect(whole.stop_reason).toBe('tool_use');
    const uses = whole.content.filter((block) => block.type === 'tool_use');
    expect(uses.map((block) => [block.name, block.input])).toEqual(calls.map((args) => ['trip', args]));
    const text = (content: Anthropic.ContentBlock[]) =>
      content.flatMap((block) => (block.type === 'text' ? [block.text] : [])).join('');
    expect(text(whole.content)).toBe(said);

    const stream = anthropic.messages.stream(body);
    let json = '';
    stream.on('inputJson', (delta) => {
      json += delta;
    });
    const streamed = await stream.finalMessage();
    expect(json).toBe(
      calls.map((args) => JSON.stringify(args).replaceAll(':', ': ').replaceAll(',', ', ')).join(''),
    );
    expect(streamed.stop_reason).toBe('tool_use');
    expect(text(streamed.content)).toBe(said);
    expect(streamed.content.flatMap((block) => (block.type === 'tool_use' ? [block.input] : []))).toEqual(
      calls,
    );

    fixture.runner.script = speaks('Done.', []);
    const last = await anthropic.messages.create({
      ...body,
      messages: [
        ...body.messages,
        { role: 'assistant', content: whole.content },
        {
          role: 'user',
          content: uses.map(({ id }, i) => ({
            type: 'tool_result' as const,
            tool_use_id: id,
            content: [{ type: 'text' as const, text: `booked number ${i}` }],
          })),
        },
      ],
    });
    expect(text(last.content)).toBe('Done.');
    for (let i = 0; i < calls.length; i++) expect(prompts.at(-1)).toContain(`booked number ${i}`);
  });

  it('a call that is asked for is made, whatever the model would say', async () => {
    fixture.runner.script = babbles;
    const valid = (args: { city: string; days: number }) => {
      expect(parameters.properties.city.enum).toContain(args.city);
      expect(args.days).toBeGreaterThanOrEqual(1);
      expect(args.days).toBeLessThanOrEqual(9);
    };
    for (const tool_choice of ['required', { type: 'function', name: 'trip' }] as const) {
      const { output } = await openai.responses.create({
        model,
        input: 'Go',
        tools: responseTools,
        tool_choice,
        parallel_tool_calls: false,
        temperature: 0,
      });
      expect(output.map((item) => item.type)).toEqual(['function_call']);
      for (const item of output) if (item.type === 'function_call') valid(JSON.parse(item.arguments));
    }
    for (const tool_choice of [{ type: 'any' }, { type: 'tool', name: 'trip' }] as const) {
      const stream = anthropic.messages.stream({
        model,
        max_tokens: 400,
        tools: messageTools,
        messages: [{ role: 'user', content: 'Go' }],
        tool_choice: { ...tool_choice, disable_parallel_tool_use: true },
        temperature: 0,
      });
      const { content, stop_reason } = await stream.finalMessage();
      expect([stop_reason, ...content.map((block) => block.type)]).toEqual(['tool_use', 'tool_use']);
      for (const block of content)
        if (block.type === 'tool_use') valid(block.input as { city: string; days: number });
    }
  });
});
