import { type AnswerEvent, CallParser } from './tools/call-parser.js';
import { callId, type ToolPlan } from './tools/plan.js';

interface ToolCall {
  id: string;
  type: 'function';
  function: { name: string; arguments: string };
}

/** One choice of a chat answer: its text, and the calls in it where there are tools. Streamed and whole read alike. */
export class ChatAnswer {
  private readonly parser: CallParser | null;
  private called = false;

  constructor(tools: ToolPlan | null) {
    this.parser = tools && new CallParser(tools.family, new Set(tools.tools.map((tool) => tool.name)));
  }

  /** What a piece of text adds, as deltas of chunks. */
  deltas(text: string): object[] {
    if (this.parser === null) return text === '' ? [] : [{ content: text }];
    return this.parser.push(text).map((event) => this.delta(event));
  }

  /** What waited for the end. */
  lastDeltas(): object[] {
    return this.parser === null ? [] : this.parser.flush().map((event) => this.delta(event));
  }

  /** The message of a whole answer, which begins with `echo`. */
  message(text: string, echo: string): object {
    const message = { role: 'assistant', content: echo + text, refusal: null };
    if (this.parser === null) return message;
    const calls: ToolCall[] = [];
    let content = echo;
    for (const event of [...this.parser.push(text), ...this.parser.flush()]) {
      if (event.type === 'text') content += event.text;
      else if (event.type === 'call') {
        this.called = true;
        calls.push({ id: callId(), type: 'function', function: { name: event.name, arguments: '' } });
      } else (calls[event.index] as ToolCall).function.arguments += event.text;
    }
    if (calls.length === 0) return { ...message, content };
    return { ...message, content: content === '' ? null : content, tool_calls: calls };
  }

  /** An answer that calls ends with `tool_calls`, unless it was cut off. */
  finish(ended: { finish_reason: string } | null): { finish_reason?: string } {
    return this.called && ended?.finish_reason === 'stop' ? { finish_reason: 'tool_calls' } : {};
  }

  private delta(event: AnswerEvent): object {
    if (event.type === 'text') return { content: event.text };
    const { index } = event;
    if (event.type === 'arguments') return { tool_calls: [{ index, function: { arguments: event.text } }] };
    this.called = true;
    const { name } = event;
    return { tool_calls: [{ index, id: callId(), type: 'function', function: { name, arguments: '' } }] };
  }
}
