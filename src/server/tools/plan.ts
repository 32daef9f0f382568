import { randomBytes } from 'node:crypto';
import { FiligreeError } from '../../errors.js';
import type { ChatMessage } from '../schemas/chat.js';
import type { Service } from '../service.js';
import { familyOf, TOOL_PROMPT, type ToolFamily } from './families.js';

export interface Tool {
  name: string;
  /** JSON Schema of the arguments; undefined: any object. */
  parameters: unknown;
  strict: boolean;
  /** As the client gave it, for the template. */
  raw: Record<string, unknown>;
}

/** What a request says of tools: which there are, and which must be called. */
export interface ToolPlan {
  family: ToolFamily;
  tools: Tool[];
  /** `auto`: the model decides; otherwise it must call one of `callable`. */
  required: boolean;
  callable: Tool[];
  parallel: boolean;
}

interface ToolBody {
  tools?: Record<string, unknown>[] | null;
  tool_choice?: unknown;
  parallel_tool_calls?: boolean | null;
}

const NAME = /^[A-Za-z0-9_.-]{1,128}$/;
const bad = (param: string, message: string) =>
  new FiligreeError('invalid_value', `'${param}' ${message}`, { param });

function readTool(raw: Record<string, unknown>, i: number): Tool {
  const param = `tools[${i}]`;
  if (raw.type !== 'function')
    throw new FiligreeError('unsupported_value', `'${param}.type' must be 'function'`, {
      param: `${param}.type`,
    });
  const f = raw.function as Record<string, unknown> | null | undefined;
  if (f === null || typeof f !== 'object') throw bad(`${param}.function`, 'is missing');
  const { name, parameters, strict } = f;
  if (typeof name !== 'string' || !NAME.test(name))
    throw bad(`${param}.function.name`, 'must be 1 to 128 letters, digits, dots, dashes or underscores');
  const isSchema =
    parameters === undefined ||
    parameters === null ||
    (typeof parameters === 'object' && !Array.isArray(parameters));
  if (!isSchema) throw bad(`${param}.function.parameters`, 'must be a JSON Schema');
  return { name, parameters: parameters ?? undefined, strict: strict === true, raw };
}

/** Null where the answer has nothing to do with tools. @throws FiligreeError */
export function planTools(service: Service, body: ToolBody): ToolPlan | null {
  const choice = body.tool_choice ?? 'auto';
  const tools = (body.tools ?? []).map(readTool);
  if (tools.length === 0) {
    if (choice === 'auto' || choice === 'none') return null;
    throw bad('tool_choice', "needs 'tools' to choose from");
  }
  const { template } = service.model;
  if (template === null || choice === 'none') return null;
  const family = familyOf(template);
  const parallel = (body.parallel_tool_calls ?? true) && !family.single;
  if (choice === 'auto') return { family, tools, required: false, callable: tools, parallel };
  if (choice === 'required') return { family, tools, required: true, callable: tools, parallel };
  const named = (choice as { function?: { name?: unknown } }).function?.name;
  if (typeof named !== 'string')
    throw bad('tool_choice', "must be 'none', 'auto', 'required' or name a function");
  const callable = tools.filter((tool) => tool.name === named);
  if (callable.length === 0)
    throw bad('tool_choice', `names the function '${named.slice(0, 64)}', which is not in 'tools'`);
  return { family, tools, required: true, callable, parallel: false };
}

/** Nine letters and digits: what Mistral's templates insist on, and nobody else minds. */
export const callId = (): string => `call_${randomBytes(12).toString('hex')}`;
const shortId = (id: string): string =>
  /^[A-Za-z0-9]{9}$/.test(id) ? id : Buffer.from(id).toString('hex').slice(-9).padStart(9, '0');

interface Call {
  id?: string;
  type?: string;
  function?: { name?: unknown; arguments?: unknown };
}

function argumentsOf(value: unknown, param: string): unknown {
  if (typeof value !== 'string') return value ?? {};
  try {
    return value.trim() === '' ? {} : JSON.parse(value);
  } catch {
    throw bad(param, 'is not JSON');
  }
}

/** Messages as templates want them: arguments as objects, ids of the length they take, tools told where they do not show them. */
export function messagesFor<T extends ChatMessage & { content: string }>(
  service: Service,
  messages: T[],
  plan: ToolPlan | null,
): T[] {
  const { template } = service.model;
  const speaksOfCalls = messages.some((m) => m.role === 'tool' || (m.tool_calls?.length ?? 0) > 0);
  if (template === null || (plan === null && !speaksOfCalls)) return messages;
  const family = plan?.family ?? familyOf(template);
  const converted = messages.map((message, i): T => {
    if (message.role === 'tool' && typeof message.tool_call_id === 'string' && family.name === 'mistral')
      return { ...message, tool_call_id: shortId(message.tool_call_id) };
    if (!message.tool_calls?.length) return withoutCalls(message);
    const calls = (message.tool_calls as Call[]).map((call, j) => {
      const param = `messages[${i}].tool_calls[${j}].function`;
      const { name, arguments: given } = call.function ?? {};
      if (typeof name !== 'string' || !NAME.test(name)) throw bad(`${param}.name`, 'is missing or malformed');
      const id = family.name === 'mistral' ? shortId(call.id ?? '') : call.id;
      return {
        ...call,
        type: 'function',
        id,
        function: { name, arguments: argumentsOf(given, `${param}.arguments`) },
      };
    });
    if (!family.tellTools) return { ...message, tool_calls: calls };
    const list = JSON.stringify(calls.map((call) => call.function));
    return withoutCalls({ ...message, content: `${message.content}<tool_call>${list}</tool_call>` });
  });
  if (plan === null || !family.tellTools) return converted;
  const told = TOOL_PROMPT(JSON.stringify(plan.tools.map((tool) => tool.raw)));
  const [first] = converted;
  if (first?.role === 'system')
    return [{ ...first, content: `${told}\n\n${first.content}` }, ...converted.slice(1)];
  return [{ role: 'system', content: told } as T, ...converted];
}

/** Templates ask whether there are `tool_calls` by looking for the key. */
function withoutCalls<T extends object>(message: T): T {
  if (!('tool_calls' in message)) return message;
  const { tool_calls: _, ...rest } = message;
  return rest as T;
}
