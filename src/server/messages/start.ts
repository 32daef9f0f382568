import { startChat } from '../chat.js';
import type { Call, ChatChunk, Exchange } from '../exchange.js';
import { encodeChat } from '../prompt.js';
import type { ChatBody, ChatMessage } from '../schemas/chat.js';
import type { CountBody, MessageBody } from '../schemas/messages.js';
import { sharedFields } from '../schemas/responses.js';
import { resolveName, type Service } from '../service.js';
import { messagesOf, toolsOf } from './blocks.js';
import { MessageWriter } from './events.js';

/** A last turn of the assistant is the beginning of the answer. */
const continues = (messages: readonly ChatMessage[]) => {
  const last = messages.at(-1);
  return last?.role === 'assistant' && !last.tool_calls?.length;
};

/**
 * Answers `/v1/messages` through the same path as chat.
 * @throws FiligreeError
 */
export async function startMessage(service: Service, body: MessageBody, call: Call): Promise<Exchange> {
  const model = resolveName(service, body.model);
  const messages = messagesOf(body);
  const given = body as Record<string, unknown>;
  const shared = Object.fromEntries(
    Object.keys(sharedFields)
      .filter((name) => name !== 'stop' && given[name] !== undefined)
      .map((name) => [name, given[name]]),
  );
  const chat = await startChat(
    service,
    {
      ...shared,
      ...toolsOf(body),
      model: body.model,
      messages,
      max_tokens: body.max_tokens,
      stream: true,
      stream_options: { include_usage: true },
      ...(continues(messages) && { continue_final_message: true }),
      ...(body.stop_sequences?.length && { stop: body.stop_sequences }),
    } as ChatBody,
    call,
  );
  const writer = MessageWriter.begin(model, chat.promptTokens ?? 0);
  const chunks = () => writer.events(chat.chunks() as AsyncGenerator<ChatChunk>);
  return {
    id: writer.message.id,
    chunks,
    async response() {
      for await (const _ of chunks());
      return writer.message;
    },
    cancel: () => chat.cancel(),
  };
}

/** @throws FiligreeError */
export async function countTokens(service: Service, body: CountBody): Promise<{ input_tokens: number }> {
  resolveName(service, body.model);
  const messages = messagesOf(body);
  const { ids } = await encodeChat(service, {
    messages,
    ...toolsOf(body),
    ...(continues(messages) && { continue_final_message: true }),
  });
  return { input_tokens: ids.length };
}
