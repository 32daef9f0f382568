import { describe, expect, it } from 'vitest';
import { type AnswerEvent, CallParser } from '../../../src/server/tools/call-parser.js';
import { FAMILIES, type ToolFamily } from '../../../src/server/tools/families.js';
import { Random } from './random.js';

/** An answer taken apart, however it is cut: texts joined, arguments joined by call. */
function read(family: ToolFamily['name'], answer: string, cuts: number[] = []) {
  const parser = new CallParser(FAMILIES[family], new Set(['f', 'g']));
  const events: AnswerEvent[] = [];
  let from = 0;
  for (const cut of [...cuts, answer.length]) {
    events.push(...parser.push(answer.slice(from, cut)));
    from = cut;
  }
  events.push(...parser.flush());
  const calls: [string, string][] = [];
  let text = '';
  for (const event of events) {
    if (event.type === 'text') text += event.text;
    else if (event.type === 'call') calls[event.index] = [event.name, ''];
    else (calls[event.index] as [string, string])[1] += event.text;
  }
  return { text, calls };
}

const CASES: [ToolFamily['name'], string, string, [string, string][]][] = [
  ['hermes', 'Hello there.', 'Hello there.', []],
  [
    'hermes',
    '<tool_call>\n{"name": "f", "arguments": {"a": "}\\"{"}}\n</tool_call>',
    '',
    [['f', '{"a": "}\\"{"}']],
  ],
  [
    'hermes',
    'I look.\n<tool_call>\n{"name":"f","arguments":{}}\n</tool_call>\n<tool_call>\n{"arguments": {"x": [1]}, "name": "g"}\n</tool_call>',
    'I look.',
    [
      ['f', '{}'],
      ['g', '{"x": [1]}'],
    ],
  ],
  ['hermes', 'a <tool_ca b < c <tool_call', 'a <tool_ca b < c <tool_call', []],
  ['hermes', '<tool_call>not a call</tool_call>', '<tool_call>not a call</tool_call>', []],
  ['hermes', '<tool_call>\n{"name": "f", "arguments": {"a": 1', '', [['f', '{"a": 1']]],
  [
    'smollm2',
    '<tool_call>[{"name": "f", "arguments": {"q": "x"}}, {"name": "g"}]</tool_call>',
    '',
    [
      ['f', '{"q": "x"}'],
      ['g', '{}'],
    ],
  ],
  [
    'mistral',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": "{\\"b\\": 2}"}]',
    '',
    [
      ['f', '{"a": 1}'],
      ['g', '{"b": 2}'],
    ],
  ],
  ['mistral', 'plain [TOOL', 'plain [TOOL', []],
  ['llama3', ' {"name": "f", "parameters": {"a": 1}}', '', [['f', '{"a": 1}']]],
  [
    'llama3',
    '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
    '',
    [
      ['f', '{"a": 1}'],
      ['g', '{}'],
    ],
  ],
  ['llama3', '{"answer": 42}', '{"answer": 42}', []],
  ['llama3', '{"name": "nobody", "parameters": {}} tail', '{"name": "nobody", "parameters": {}} tail', []],
  ['llama3', 'Text with {"name": "f"} in it', 'Text with {"name": "f"} in it', []],
  ['llama3', '{not json', '{not json', []],
];

describe('calls in answers', () => {
  it.each(CASES)('%s: %j', (family, answer, text, calls) => {
    expect(read(family, answer)).toEqual({ text, calls });
    const random = new Random(1);
    for (let i = 0; i < 50; i++) {
      const cuts = Array.from({ length: random.below(8) }, () => random.below(answer.length)).sort(
        (a, b) => a - b,
      );
      expect(read(family, answer, cuts), String(cuts)).toEqual({ text, calls });
    }
    expect(
      read(
        family,
        answer,
        [...answer].map((_, j) => j),
      ),
    ).toEqual({ text, calls });
  });
});
