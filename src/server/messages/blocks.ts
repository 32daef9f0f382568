import { FiligreeError } from '../../errors.js';
import type { ChatMessage } from '../schemas/chat.js';
import type { CountBody } from '../schemas/messages.js';

type Block = { type: string; [field: string]: unknown };

const invalid = (
  param: string,
  what: string,
  code: 'invalid_value' | 'unsupported_value' = 'invalid_value',
) => new FiligreeError(code, `${param}${what}`, { param });

function textOf(content: unknown, param: string): string {
  if (content === undefined || content === null) return '';
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) throw invalid(param, ': must be a string or an array of content blocks');
  return content
    .map((block: Block | null, i) => {
      if (block?.type === 'text' && typeof block.text === 'string') return block.text;
      const shown = typeof block?.type === 'string' ? `'${block.type.slice(0, 40)}'` : 'this';
      throw invalid(`${param}.${i}`, `: this model reads text only, not ${shown}`, 'unsupported_value');
    })
    .join('');
}

function string(value: unknown, param: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw invalid(param, ': must be a string');
}

function fromUser(blocks: readonly Block[], param: string): ChatMessage[] {
  const messages: ChatMessage[] = [];
  let text = '';
  for (const [i, block] of blocks.entries()) {
    const at = `${param}.content.${i}`;
    if (block.type === 'tool_result') {
      messages.push({
        role: 'tool',
        tool_call_id: string(block.tool_use_id, `${at}.tool_use_id`),
        content: textOf(block.content, `${at}.content`),
      });
    } else text += textOf([block], `${param}.content`);
  }
  if (text !== '' || messages.length === 0) messages.push({ role: 'user', content: text });
  return messages;
}

function fromAssistant(blocks: readonly Block[], param: string): ChatMessage {
  let text = '';
  const calls: Record<string, unknown>[] = [];
  for (const [i, block] of blocks.entries()) {
    const at = `${param}.content.${i}`;
    if (block.type === 'thinking' || block.type === 'redacted_thinking') continue;
    if (block.type === 'tool_use') {
      const name = string(block.name, `${at}.name`);
      const id = string(block.id, `${at}.id`);
      calls.push({ id, type: 'function', function: { name, arguments: JSON.stringify(block.input ?? {}) } });
    } else text += textOf([block], `${param}.content`);
  }
  return {
    role: 'assistant',
    content: text === '' && calls.length > 0 ? null : text,
    ...(calls.length > 0 && { tool_calls: calls }),
  };
}

/** Anthropic's conversation as chat messages. @throws FiligreeError naming the block */
export function messagesOf(body: CountBody): ChatMessage[] {
  const messages: ChatMessage[] = [];
  const system = textOf(body.system, 'system');
  if (system !== '') messages.push({ role: 'system', content: system });
  for (const [i, { role, content }] of body.messages.entries()) {
    const param = `messages.${i}`;
    if (typeof content === 'string') messages.push({ role, content });
    else if (role === 'user') messages.push(...fromUser(content, param));
    else if (role === 'assistant') messages.push(fromAssistant(content, param));
    else messages.push({ role, content: textOf(content, `${param}.content`) });
  }
  return messages;
}

/** Tools and their choice as chat spells them. @throws FiligreeError for tools that run on a server */
export function toolsOf(body: CountBody): Record<string, unknown> {
  const { tools, tool_choice: choice } = body;
  const chat: Record<string, unknown> = {};
  if (tools?.length)
    chat.tools = tools.map((tool, i) => {
      const { name, description, input_schema: parameters, type, strict } = tool;
      if (type !== undefined && type !== null && type !== 'custom')
        throw invalid(
          `tools.${i}.type`,
          ': this server runs no tools, it only calls yours',
          'unsupported_value',
        );
      return {
        type: 'function',
        function: {
          name: string(name, `tools.${i}.name`),
          ...(typeof description === 'string' && { description }),
          ...(parameters !== undefined && parameters !== null && { parameters }),
          ...(typeof strict === 'boolean' && { strict }),
        },
      };
    });
  if (choice) {
    const { type, name, disable_parallel_tool_use: alone } = choice as Record<string, unknown>;
    if (type === 'tool')
      chat.tool_choice = { type: 'function', function: { name: string(name, 'tool_choice.name') } };
    else chat.tool_choice = type === 'any' ? 'required' : type;
    if (alone === true) chat.parallel_tool_calls = false;
  }
  return chat;
}
