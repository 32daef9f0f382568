import { FiligreeError } from '../../errors.js';
import type { ChatMessage } from '../schemas/chat.js';

type Item = Record<string, unknown>;

const ROLES = ['system', 'developer', 'user', 'assistant'];

const invalid = (
  param: string,
  what: string,
  code: 'invalid_value' | 'unsupported_value' = 'invalid_value',
) => new FiligreeError(code, `'${param}' ${what}`, { param });

function text(value: unknown, param: string): string {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) throw invalid(param, 'must be a string or an array of content parts');
  return value
    .map((part: unknown, i) => {
      const at = `${param}[${i}]`;
      if (part === null || typeof part !== 'object') throw invalid(at, 'must be a content part');
      const { type, text, refusal } = part as Item;
      if (type === 'input_text' || type === 'output_text' || type === 'text') {
        if (typeof text !== 'string') throw invalid(`${at}.text`, 'must be a string');
        return text;
      }
      if (type === 'refusal' && typeof refusal === 'string') return refusal;
      const shown = typeof type === 'string' ? `'${type.slice(0, 40)}'` : 'a part without a type';
      throw invalid(`${at}.type`, `: this model reads text only, not ${shown}`, 'unsupported_value');
    })
    .join('');
}

const name = (value: unknown, param: string): string => {
  if (typeof value !== 'string' || value === '') throw invalid(param, 'must be a string');
  return value;
};

/**
 * Items of the Responses API as chat messages: consecutive function calls become the calls of one assistant message,
 * joined to the text right before them.
 * @throws FiligreeError naming the item
 */
export function messagesOf(input: string | readonly object[]): ChatMessage[] {
  if (typeof input === 'string') return [{ role: 'user', content: input }];
  const messages: ChatMessage[] = [];
  for (const [i, raw] of input.entries()) {
    const item = raw as Item;
    const param = `input[${i}]`;
    const type = item.type ?? 'message';
    if (type === 'message') {
      if (!ROLES.includes(item.role as string))
        throw invalid(`${param}.role`, `must be one of ${ROLES.join(', ')}`);
      messages.push({
        role: item.role as 'user',
        content: text(item.content, `${param}.content`),
      });
    } else if (type === 'function_call') {
      const call = {
        id: name(item.call_id, `${param}.call_id`),
        type: 'function',
        function: {
          name: name(item.name, `${param}.name`),
          arguments: name(item.arguments, `${param}.arguments`),
        },
      };
      const last = messages.at(-1);
      if (last?.role === 'assistant') last.tool_calls = [...(last.tool_calls ?? []), call];
      else messages.push({ role: 'assistant', content: null, tool_calls: [call] });
    } else if (type === 'function_call_output') {
      messages.push({
        role: 'tool',
        tool_call_id: name(item.call_id, `${param}.call_id`),
        content: text(item.output, `${param}.output`),
      });
    } else if (type !== 'reasoning') {
      const shown = typeof type === 'string' ? `'${type.slice(0, 40)}'` : 'this';
      throw invalid(
        `${param}.type`,
        `: ${shown} is no kind of item that this server knows`,
        'unsupported_value',
      );
    }
  }
  if (messages.length === 0) throw invalid('input', 'holds no message');
  return messages;
}

/** A function of the Responses API as chat's `tools` spell it. @throws FiligreeError for tools that run on a server */
export function chatTool(tool: Item, i: number): Item {
  if (tool.type !== 'function') {
    const shown = typeof tool.type === 'string' ? `'${tool.type.slice(0, 40)}'` : 'a tool without a type';
    throw invalid(
      `tools[${i}].type`,
      `: this server runs no tools, not ${shown}: only functions`,
      'unsupported_value',
    );
  }
  const { name, description, parameters, strict } = tool;
  return { type: 'function', function: stripped({ name, description, parameters, strict }) };
}

/** `{type: 'function', name}` as chat spells it. */
export function chatToolChoice(choice: unknown): unknown {
  if (typeof choice !== 'object' || choice === null) return choice;
  const { type, name } = choice as Item;
  return type === 'function' ? { type, function: { name } } : choice;
}

/** `text.format` as chat's `response_format`. */
export function responseFormat(format: Item | null | undefined): unknown {
  if (format === null || format === undefined) return undefined;
  if (format.type !== 'json_schema') return format;
  const { type, name, description, schema, strict } = format;
  return { type, json_schema: stripped({ name, description, schema, strict }) };
}

/** Without what is null or missing: chat's schema takes neither for these. */
function stripped(value: Item): Item {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined && v !== null));
}
