import { randomUUID } from 'node:crypto';
import type { ChatChunk, Usage } from '../exchange.js';

export interface ResponseObject {
  id: string;
  status: 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled';
  output: OutputItem[];
  usage: object | null;
  error: { code: string; message: string } | null;
  incomplete_details: { reason: string } | null;
  completed_at: number | null;
  [field: string]: unknown;
}

interface OutputText {
  type: 'output_text';
  text: string;
  annotations: [];
  logprobs: object[];
}

export type OutputItem =
  | { id: string; type: 'message'; status: string; role: 'assistant'; content: OutputText[] }
  | { id: string; type: 'function_call'; status: string; call_id: string; name: string; arguments: string };

interface Event {
  type: string;
  sequence_number: number;
  [field: string]: unknown;
}

export const newId = (prefix: string): string => `${prefix}_${randomUUID().replaceAll('-', '')}`;

export function responseUsage(usage: Usage): object {
  return {
    input_tokens: usage.prompt_tokens,
    input_tokens_details: { cached_tokens: usage.prompt_tokens_details.cached_tokens },
    output_tokens: usage.completion_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: usage.total_tokens,
  };
}

/**
 * A chat stream as the events of the Responses API. `response` is kept up to date while events are read: at the end it
 * is the whole answer, so that a stream and its response cannot differ.
 */
export class ResponseWriter {
  private sequence = 0;
  private open: { item: OutputItem; index: number; call: number } | null = null;
  private finish: string | null = null;

  constructor(readonly response: ResponseObject) {}

  async *events(chunks: AsyncIterable<ChatChunk>): AsyncGenerator<Event> {
    yield this.event('response.created', { response: this.snapshot() });
    yield this.event('response.in_progress', { response: this.snapshot() });
    for await (const chunk of chunks) {
      if (chunk.usage) this.response.usage = responseUsage(chunk.usage);
      const choice = chunk.choices[0];
      if (!choice) continue;
      const { content, tool_calls: calls } = choice.delta;
      const logprobs = choice.logprobs?.content ?? [];
      if (content || logprobs.length > 0) yield* this.text(content ?? '', logprobs);
      for (const call of calls ?? []) yield* this.call(call);
      this.finish = choice.finish_reason ?? this.finish;
    }
    yield* this.close();
    const incomplete = this.finish === 'length';
    this.response.status = incomplete ? 'incomplete' : 'completed';
    this.response.incomplete_details = incomplete ? { reason: 'max_output_tokens' } : null;
    this.response.completed_at = Math.floor(Date.now() / 1000);
    if (this.response.output.length === 0) yield* this.emptyMessage();
    yield this.event(`response.${this.response.status}`, { response: this.snapshot() });
  }

  /** What was written until the answer broke off stays, marked. */
  breakOff(status: 'failed' | 'cancelled', error: ResponseObject['error']): void {
    if (this.open) this.open.item.status = 'incomplete';
    this.response.status = status;
    this.response.error = error;
  }

  /** An answer without a word is a message all the same: clients read `output[0]`. */
  private *emptyMessage(): Generator<Event> {
    yield* this.text('', []);
    yield* this.close();
  }

  private *text(delta: string, logprobs: object[]): Generator<Event> {
    if (this.open?.item.type !== 'message') {
      yield* this.close();
      const item: OutputItem = {
        id: newId('msg'),
        type: 'message',
        status: 'in_progress',
        role: 'assistant',
        content: [],
      };
      yield* this.add(item, -1);
      const part: OutputText = { type: 'output_text', text: '', annotations: [], logprobs: [] };
      yield this.event('response.content_part.added', { ...this.place(), part: { ...part } });
      item.content.push(part);
    }
    const part = this.part() as OutputText;
    part.text += delta;
    part.logprobs.push(...logprobs);
    if (delta !== '') yield this.event('response.output_text.delta', { ...this.place(), delta, logprobs });
  }

  private *call(call: NonNullable<ChatChunk['choices'][0]['delta']['tool_calls']>[0]): Generator<Event> {
    if (this.open?.item.type !== 'function_call' || this.open.call !== call.index) {
      yield* this.close();
      const item: OutputItem = {
        id: newId('fc'),
        type: 'function_call',
        status: 'in_progress',
        call_id: call.id ?? newId('call'),
        name: call.function?.name ?? '',
        arguments: '',
      };
      yield* this.add(item, call.index);
    }
    const delta = call.function?.arguments ?? '';
    const { item, index } = this.open as NonNullable<typeof this.open>;
    if (delta === '' || item.type !== 'function_call') return;
    item.arguments += delta;
    yield this.event('response.function_call_arguments.delta', {
      item_id: item.id,
      output_index: index,
      delta,
    });
  }

  private *add(item: OutputItem, call: number): Generator<Event> {
    const index = this.response.output.length;
    this.response.output.push(item);
    this.open = { item, index, call };
    yield this.event('response.output_item.added', { output_index: index, item: structuredClone(item) });
  }

  private *close(): Generator<Event> {
    if (this.open === null) return;
    const { item, index } = this.open;
    item.status = this.finish === 'length' ? 'incomplete' : 'completed';
    const part = this.part();
    if (part) {
      const { text, logprobs } = part;
      yield this.event('response.output_text.done', { ...this.place(), text, logprobs });
      yield this.event('response.content_part.done', { ...this.place(), part: structuredClone(part) });
    } else if (item.type === 'function_call') {
      const { id, name, arguments: whole } = item;
      yield this.event('response.function_call_arguments.done', {
        item_id: id,
        output_index: index,
        name,
        arguments: whole,
      });
    }
    yield this.event('response.output_item.done', { output_index: index, item: structuredClone(item) });
    this.open = null;
  }

  private part(): OutputText | undefined {
    return this.open?.item.type === 'message' ? this.open.item.content[0] : undefined;
  }

  private place() {
    const { item, index } = this.open as NonNullable<typeof this.open>;
    return { item_id: item.id, output_index: index, content_index: 0 };
  }

  private snapshot(): ResponseObject {
    return structuredClone(this.response);
  }

  private event(type: string, fields: object): Event {
    return { type, sequence_number: this.sequence++, ...fields };
  }
}
