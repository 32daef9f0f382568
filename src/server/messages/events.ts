import { randomUUID } from 'node:crypto';
import type { ChatChunk } from '../exchange.js';

export type ContentBlock =
  | { type: 'text'; text: string }
  | { type: 'tool_use'; id: string; name: string; input: unknown };

export interface MessageObject {
  id: string;
  type: 'message';
  role: 'assistant';
  model: string;
  content: ContentBlock[];
  stop_reason: string | null;
  stop_sequence: string | null;
  usage: {
    input_tokens: number;
    output_tokens: number;
    cache_creation_input_tokens: number;
    cache_read_input_tokens: number;
  };
}

type Event = { type: string; [field: string]: unknown };
type Call = NonNullable<ChatChunk['choices'][0]['delta']['tool_calls']>[0];

/** A chat stream as Anthropic's events; `message` is kept up to date, and at the end is the whole answer. */
export class MessageWriter {
  /** The block being written, and for a tool's the index of its call and its arguments so far. */
  private open: { index: number; call: number; json: string } | null = null;
  private finish: string | null = null;

  constructor(readonly message: MessageObject) {}

  static begin(model: string, promptTokens: number): MessageWriter {
    return new MessageWriter({
      id: `msg_${randomUUID().replaceAll('-', '')}`,
      type: 'message',
      role: 'assistant',
      model,
      content: [],
      stop_reason: null,
      stop_sequence: null,
      usage: {
        input_tokens: promptTokens,
        output_tokens: 0,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: 0,
      },
    });
  }

  async *events(chunks: AsyncGenerator<ChatChunk>): AsyncGenerator<Event> {
    const { message } = this;
    // Read first: what fails at once fails with a status of its own.
    let next = await chunks.next();
    yield { type: 'message_start', message: structuredClone(message) };
    yield { type: 'ping' };
    try {
      for (; !next.done; next = await chunks.next()) yield* this.chunk(next.value);
    } finally {
      await chunks.return(undefined);
    }
    yield* this.close();
    if (message.content.length === 0) {
      // Clients read content[0].text.
      yield* this.text('');
      yield* this.close();
    }
    message.stop_reason = this.stopReason();
    const { stop_reason, stop_sequence, usage } = message;
    yield { type: 'message_delta', delta: { stop_reason, stop_sequence }, usage: { ...usage } };
    yield { type: 'message_stop' };
  }

  private *chunk(chunk: ChatChunk): Generator<Event> {
    const { usage } = this.message;
    if (chunk.usage) {
      const cached = chunk.usage.prompt_tokens_details.cached_tokens;
      usage.input_tokens = chunk.usage.prompt_tokens - cached;
      usage.cache_read_input_tokens = cached;
      usage.output_tokens = chunk.usage.completion_tokens;
    }
    const choice = chunk.choices[0];
    if (!choice) return;
    if (choice.delta.content) yield* this.text(choice.delta.content);
    for (const call of choice.delta.tool_calls ?? []) yield* this.call(call);
    if (!choice.finish_reason) return;
    this.finish = choice.finish_reason;
    if (typeof choice.stop_reason === 'string') this.message.stop_sequence = choice.stop_reason;
  }

  private *text(text: string): Generator<Event> {
    const { content } = this.message;
    if (this.open === null || this.open.call >= 0) {
      yield* this.close();
      yield* this.start({ type: 'text', text: '' }, -1);
    }
    const block = content.at(-1) as Extract<ContentBlock, { type: 'text' }>;
    block.text += text;
    if (text !== '') yield this.delta({ type: 'text_delta', text });
  }

  private *call(call: Call): Generator<Event> {
    if (this.open === null || this.open.call !== call.index) {
      yield* this.close();
      const id = call.id ?? `toolu_${randomUUID().replaceAll('-', '')}`;
      yield* this.start({ type: 'tool_use', id, name: call.function?.name ?? '', input: {} }, call.index);
    }
    const json = call.function?.arguments ?? '';
    if (json === '' || this.open === null) return;
    this.open.json += json;
    yield this.delta({ type: 'input_json_delta', partial_json: json });
  }

  private *start(block: ContentBlock, call: number): Generator<Event> {
    const index = this.message.content.length;
    this.message.content.push(block);
    this.open = { index, call, json: '' };
    yield { type: 'content_block_start', index, content_block: { ...block } };
  }

  private *close(): Generator<Event> {
    if (this.open === null) return;
    const { index, json } = this.open;
    const block = this.message.content[index];
    if (block?.type === 'tool_use') block.input = parsed(json);
    this.open = null;
    yield { type: 'content_block_stop', index };
  }

  private delta(delta: object): Event {
    return { type: 'content_block_delta', index: this.open?.index ?? 0, delta };
  }

  private stopReason(): string {
    if (this.finish === 'tool_calls') return 'tool_use';
    if (this.finish === 'length') return 'max_tokens';
    return this.message.stop_sequence === null ? 'end_turn' : 'stop_sequence';
  }
}

/** Arguments that were cut off by the length are no JSON: then nothing is known of them. */
function parsed(json: string): unknown {
  try {
    return json === '' ? {} : JSON.parse(json);
  } catch {
    return {};
  }
}
