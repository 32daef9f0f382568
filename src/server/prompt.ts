import { FiligreeError } from '../errors.js';
import type { ChatMessage } from './schemas/chat.js';
import type { Service } from './service.js';
import { messagesFor, planTools, type ToolPlan } from './tools/plan.js';

interface TemplateBody {
  messages: ChatMessage[];
  add_generation_prompt?: boolean | null;
  continue_final_message?: boolean | null;
  chat_template_kwargs?: Record<string, unknown> | null;
  tools?: Record<string, unknown>[] | null;
  tool_choice?: unknown;
}

/** Most bytes that one token of the vocabulary stands for: text longer than this per position cannot fit. */
const longestToken = new WeakMap<object, number>();

function maxTokenBytes(service: Service): number {
  const { tokenizer } = service.model;
  let longest = longestToken.get(tokenizer);
  if (longest === undefined) {
    longest = 1;
    for (let id = 0; id < tokenizer.vocabSize; id++)
      longest = Math.max(longest, tokenizer.tokenBytes(id).length);
    longestToken.set(tokenizer, longest);
  }
  return longest;
}

/**
 * Refuses text that cannot fit before spending time on it: a token stands for a bounded number of bytes, and a
 * character takes at least one.
 */
export function refuseHopeless(service: Service, characters: number, param: string): void {
  const { maxModelLen } = service.engine.info;
  if (characters <= maxModelLen || characters <= maxModelLen * maxTokenBytes(service)) return;
  throw new FiligreeError(
    'context_length_exceeded',
    `This model's maximum context length is ${maxModelLen} tokens, which ${characters} characters cannot fit. ` +
      `Shorten the ${param}.`,
    { param },
  );
}

/** Keeps the last tokens, as `truncate_prompt_tokens` asks. */
export function truncated(service: Service, ids: number[], keep: number | null | undefined): number[] {
  if (keep === null || keep === undefined) return ids;
  if (keep === 0)
    throw new FiligreeError('invalid_value', "'truncate_prompt_tokens' must be -1 or at least 1", {
      param: 'truncate_prompt_tokens',
    });
  const limit = keep === -1 ? service.engine.info.maxModelLen - 1 : keep;
  return ids.length > limit ? ids.slice(-limit) : ids;
}

/** Content as plain text. @throws FiligreeError naming the part that is not text */
function contentText(message: ChatMessage, index: number): string {
  const { content } = message;
  if (content === null || content === undefined) {
    if (message.role === 'assistant') return '';
    throw new FiligreeError('invalid_value', `'messages[${index}].content' is missing`, {
      param: `messages[${index}].content`,
    });
  }
  if (typeof content === 'string') return content;
  return content
    .map((part, i) => {
      if (part.type === 'text' && typeof part.text === 'string') return part.text;
      const param = `messages[${index}].content[${i}]`;
      if (part.type === 'text')
        throw new FiligreeError('invalid_value', `'${param}.text' is missing`, { param });
      throw new FiligreeError(
        'unsupported_value',
        `'${param}': this model reads text only, not '${part.type}'`,
        {
          param: `${param}.type`,
        },
      );
    })
    .join('');
}

function templateInput(service: Service, body: TemplateBody, tools: ToolPlan | null) {
  const { template } = service.model;
  if (template === null) {
    throw new FiligreeError(
      'template_error',
      'This model has no chat template. Use /v1/completions, or start the server with a chat model.',
      { param: 'messages' },
    );
  }
  const continueFinalMessage = body.continue_final_message ?? false;
  if (continueFinalMessage && body.add_generation_prompt)
    throw new FiligreeError(
      'invalid_value',
      "'continue_final_message' and 'add_generation_prompt' exclude each other",
      { param: 'continue_final_message' },
    );
  const given = body.messages.map((message, i) => ({
    ...message,
    // The developer's word is the system's to every template that is around.
    role: message.role === 'developer' ? 'system' : message.role,
    content: contentText(message, i),
  }));
  const messages = messagesFor(service, given, tools);
  refuseHopeless(
    service,
    messages.reduce((sum, m) => sum + m.content.length, 0),
    'messages',
  );
  return {
    template,
    messages,
    options: {
      addGenerationPrompt: continueFinalMessage ? false : (body.add_generation_prompt ?? true),
      continueFinalMessage,
      ...(tools && !tools.family.tellTools && { tools: tools.tools.map((tool) => tool.raw) }),
      kwargs: body.chat_template_kwargs ?? {},
    },
  };
}

export function renderChat(service: Service, body: TemplateBody): string {
  const { template, messages, options } = templateInput(service, body, planTools(service, body));
  return template.render(messages, options);
}

/** @returns ids of the rendered conversation; the text of its last message, for `echo` */
export async function encodeChat(
  service: Service,
  body: TemplateBody,
  tools: ToolPlan | null = planTools(service, body),
): Promise<{ ids: number[]; lastContent: string }> {
  const { template, messages, options } = templateInput(service, body, tools);
  const ids = await template.encodeAsync(messages, options);
  return { ids, lastContent: messages.at(-1)?.content ?? '' };
}

/** Plain text: control tokens spelled in it count as such, as completions of a base model want them. */
export async function encodeText(
  service: Service,
  text: string,
  addSpecial: boolean,
  param: string,
): Promise<number[]> {
  refuseHopeless(service, text.length, param);
  const { tokenizer } = service.model;
  const ids = await tokenizer.encodeAsync(text, { addSpecial, parseSpecial: true });
  if (ids.length > 0) return ids;
  // Nothing to condition on: the beginning of a text, where the model has a token for it.
  if (tokenizer.bosId !== null) return [tokenizer.bosId];
  throw new FiligreeError(
    'invalid_value',
    `'${param}' is empty, and the model has no token that begins a text`,
    {
      param,
    },
  );
}

export interface ReadPrompt {
  ids: number[];
  /** The text it was, where nothing was cut off. */
  text: string | null;
  /** As the client spelled its place: `prompt`, `input[3]`. */
  param: string;
}

/**
 * A text, token ids, or a batch of either, as ids.
 * @throws FiligreeError naming the item
 */
export async function readPrompts(
  service: Service,
  input: string | number[] | string[] | number[][],
  name: string,
  options: { addSpecial: boolean; truncate: number | null | undefined },
): Promise<ReadPrompt[]> {
  const batch = Array.isArray(input) && typeof input[0] !== 'number';
  const items = (batch ? input : [input]) as (string | number[])[];
  const prompts: ReadPrompt[] = [];
  for (const [i, item] of items.entries()) {
    const param = batch ? `${name}[${i}]` : name;
    if (typeof item !== 'string') checkTokenIds(service, item, param);
    const all = typeof item === 'string' ? await encodeText(service, item, options.addSpecial, param) : item;
    const ids = truncated(service, all, options.truncate);
    prompts.push({ ids, text: typeof item === 'string' && ids.length === all.length ? item : null, param });
  }
  return prompts;
}

/** @throws FiligreeError where an id is outside the vocabulary */
export function checkTokenIds(service: Service, ids: readonly number[], param: string): void {
  const { vocabSize } = service.engine.info;
  const at = ids.findIndex((id) => id >= vocabSize);
  if (at >= 0)
    throw new FiligreeError(
      'invalid_value',
      `'${param}[${at}]' is ${ids[at]}, outside the vocabulary of ${vocabSize} tokens`,
      { param: `${param}[${at}]` },
    );
}
