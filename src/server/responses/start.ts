import { FiligreeError } from '../../errors.js';
import { startChat } from '../chat.js';
import type { Call, ChatChunk, Exchange } from '../exchange.js';
import { asFiligreeError, errorBody } from '../http-errors.js';
import type { ChatBody, ChatMessage } from '../schemas/chat.js';
import { type ResponseBody, sharedFields } from '../schemas/responses.js';
import { resolveName, type Service } from '../service.js';
import { newId, type OutputItem, type ResponseObject, ResponseWriter } from './events.js';
import { chatTool, chatToolChoice, messagesOf, responseFormat } from './items.js';
import type { ResponseStore } from './store.js';

/** How chat's parameters are called here. */
const NAMES: [RegExp, string][] = [
  [/^messages\b/, 'input'],
  [/^max_(completion_)?tokens$/, 'max_output_tokens'],
  [/^response_format\b(\.json_schema)?/, 'text.format'],
];

function renamed(error: unknown): unknown {
  if (!(error instanceof FiligreeError) || error.param === null) return error;
  const [pattern, name] = NAMES.find(([p]) => p.test(error.param as string)) ?? [];
  if (pattern === undefined || name === undefined) return error;
  const param = error.param.replace(pattern, name);
  const message = error.message.replaceAll(`'${error.param}'`, `'${param}'`);
  return new FiligreeError(error.code, message, { param, cause: error.cause });
}

function chatBodyOf(body: ResponseBody, messages: ChatMessage[]): ChatBody {
  const given = body as Record<string, unknown>;
  const shared = Object.fromEntries(
    Object.keys(sharedFields)
      .filter((name) => given[name] !== undefined)
      .map((name) => [name, given[name]]),
  );
  const logprobs = body.include?.includes('message.output_text.logprobs') || (body.top_logprobs ?? 0) > 0;
  const format = responseFormat(body.text?.format);
  return {
    ...shared,
    model: body.model,
    messages: body.instructions ? [{ role: 'system', content: body.instructions }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
    ...(typeof body.max_output_tokens === 'number' && { max_completion_tokens: body.max_output_tokens }),
    ...(logprobs && { logprobs, top_logprobs: body.top_logprobs ?? 0 }),
    ...(format !== undefined && { response_format: format }),
    ...(body.tools?.length && { tools: body.tools.map(chatTool) }),
    ...(body.tool_choice && { tool_choice: chatToolChoice(body.tool_choice) }),
    ...(typeof body.parallel_tool_calls === 'boolean' && { parallel_tool_calls: body.parallel_tool_calls }),
  } as ChatBody;
}

/** Starts the chat; under `truncation: auto` without the oldest messages, as far as they do not fit. */
async function startFitting(
  service: Service,
  body: ResponseBody,
  messages: ChatMessage[],
  call: Call,
): Promise<Exchange> {
  for (let kept = messages; ; ) {
    try {
      return await startChat(service, chatBodyOf(body, kept), call);
    } catch (error) {
      const tooLong = error instanceof FiligreeError && error.code === 'context_length_exceeded';
      if (!tooLong || body.truncation !== 'auto' || kept.length < 2) throw renamed(error);
      // Halves the overflow's search; a tool's answer never stands without its call.
      let drop = Math.max(1, Math.floor(kept.length / 4));
      while (drop < kept.length - 1 && kept[drop]?.role === 'tool') drop++;
      kept = kept.slice(drop);
    }
  }
}

function initial(service: Service, body: ResponseBody, model: string): ResponseObject {
  return {
    id: newId('resp'),
    object: 'response',
    created_at: Math.floor(Date.now() / 1000),
    completed_at: null,
    status: 'in_progress',
    background: body.background ?? false,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: null,
    model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: body.previous_response_id ?? null,
    reasoning: { effort: null, summary: null },
    service_tier: 'default',
    store: body.store ?? true,
    temperature: body.temperature ?? service.model.generation?.temperature ?? 1,
    text: { format: body.text?.format ?? { type: 'text' } },
    tool_choice: body.tool_choice ?? (body.tools?.length ? 'auto' : 'none'),
    tools: body.tools ?? [],
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? service.model.generation?.topP ?? 1,
    truncation: body.truncation ?? 'disabled',
    usage: null,
    user: body.user ?? null,
    metadata: body.metadata ?? {},
    system_fingerprint: service.version,
  };
}

/** The answer's items as the messages that a next request goes on from. */
function answered(output: readonly OutputItem[]): ChatMessage[] {
  const items = output.filter((item) => item.type === 'function_call' || item.content[0]?.text !== '');
  return items.length === 0 ? [] : messagesOf(items);
}

/**
 * Answers `/v1/responses` through the same path as chat.
 * @throws FiligreeError
 */
export async function startResponse(
  service: Service,
  store: ResponseStore,
  body: ResponseBody,
  call: Call,
): Promise<Exchange & { background(): ResponseObject }> {
  const model = resolveName(service, body.model);
  const store_ = body.store ?? true;
  if (body.background && !store_)
    throw new FiligreeError('invalid_value', "'background' needs 'store': nobody could read the answer", {
      param: 'background',
    });
  const earlier = body.previous_response_id ? previous(store, body.previous_response_id) : [];
  const own = messagesOf(body.input);
  const messages = [...earlier, ...own];
  const chat = await startFitting(service, body, messages, call);
  const response = initial(service, body, model);
  const writer = new ResponseWriter(response);
  const input =
    typeof body.input === 'string'
      ? [
          {
            id: newId('msg'),
            type: 'message',
            role: 'user',
            content: [{ type: 'input_text', text: body.input }],
          },
        ]
      : body.input.map((item) => ({ id: newId('msg'), type: 'message', ...item }));
  let cancelled = false;

  const keep = () => {
    if (!store_) return;
    const done = response.status !== 'in_progress';
    // Deleted meanwhile.
    if (body.background && done && !store.has(response.id)) return;
    store.put({
      response,
      input,
      messages: done ? [...messages, ...answered(response.output)] : messages,
      cancel: done ? null : cancel,
    });
  };

  function cancel(): void {
    cancelled = true;
    chat.cancel();
  }

  async function* chunks(): AsyncGenerator<object> {
    try {
      yield* writer.events(chat.chunks() as AsyncGenerator<ChatChunk>);
    } catch (error) {
      const { code, message } = errorBody(asFiligreeError(error)).error;
      if (cancelled) writer.breakOff('cancelled', null);
      else writer.breakOff('failed', { code, message });
      if (!(cancelled && body.background)) throw error;
    } finally {
      if (response.status === 'in_progress') writer.breakOff('cancelled', null);
      // One that its client left is nobody's, unless it runs in the background.
      if (!cancelled || body.background) keep();
    }
  }

  async function whole(): Promise<ResponseObject> {
    for await (const _ of chunks());
    return response;
  }

  function background(): ResponseObject {
    keep();
    return response;
  }

  return { id: response.id, chunks, response: whole, cancel, background };
}

/** @throws FiligreeError not_found, invalid_value where it is not finished */
function previous(store: ResponseStore, id: string): ChatMessage[] {
  let stored: ReturnType<ResponseStore['get']>;
  try {
    stored = store.get(id);
  } catch (error) {
    const { message } = error as Error;
    throw new FiligreeError('not_found', message, { param: 'previous_response_id' });
  }
  if (stored.cancel !== null)
    throw new FiligreeError('invalid_value', `The response '${id}' is still being written.`, {
      param: 'previous_response_id',
    });
  return stored.messages;
}
