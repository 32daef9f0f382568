import type { ChatTemplate } from '../../tokenizer/index.js';

/** How a family of models writes its calls. */
export interface ToolFamily {
  name: 'llama3' | 'hermes' | 'mistral' | 'smollm2';
  /** What begins calls; null: an answer that is a call from its first character. */
  marker: string | null;
  /** What ends a call, or the list of them. */
  end: string | null;
  /** Calls stand in one list behind one marker. */
  list: boolean;
  argumentsKey: 'arguments' | 'parameters';
  /** The family writes no more than one call. */
  single: boolean;
  /** The template shows no tools: they are told in the system's message. */
  tellTools: boolean;
}

export const FAMILIES: Record<ToolFamily['name'], ToolFamily> = {
  llama3: {
    name: 'llama3',
    marker: null,
    end: null,
    list: false,
    argumentsKey: 'parameters',
    single: true,
    tellTools: false,
  },
  hermes: {
    name: 'hermes',
    marker: '<tool_call>',
    end: '</tool_call>',
    list: false,
    argumentsKey: 'arguments',
    single: false,
    tellTools: false,
  },
  mistral: {
    name: 'mistral',
    marker: '[TOOL_CALLS]',
    end: null,
    list: true,
    argumentsKey: 'arguments',
    single: false,
    tellTools: false,
  },
  smollm2: {
    name: 'smollm2',
    marker: '<tool_call>',
    end: '</tool_call>',
    list: true,
    argumentsKey: 'arguments',
    single: false,
    tellTools: true,
  },
};

const PROBE = {
  type: 'function',
  function: { name: 'filigree_probe', description: '', parameters: { type: 'object', properties: {} } },
};
const known = new WeakMap<ChatTemplate, ToolFamily>();

/** The family that a template speaks for, by what it writes where there are tools. */
export function familyOf(template: ChatTemplate): ToolFamily {
  let family = known.get(template);
  if (family !== undefined) return family;
  let rendered = '';
  try {
    rendered = template.render([{ role: 'user', content: 'x' }], {
      tools: [PROBE],
      addGenerationPrompt: true,
    });
  } catch {
    // A template that cannot take tools is told about them.
  }
  if (!rendered.includes('filigree_probe')) family = FAMILIES.smollm2;
  else if (rendered.includes('[AVAILABLE_TOOLS]')) family = FAMILIES.mistral;
  else if (rendered.includes('"parameters": dictionary')) family = FAMILIES.llama3;
  else family = FAMILIES.hermes;
  known.set(template, family);
  return family;
}

/** SmolLM2's own words for models that learned of tools from a system message alone. */
export const TOOL_PROMPT = (tools: string): string =>
  `You are an expert in composing functions. You are given a question and a set of possible functions. Based on the question, you will need to make one or more function/tool calls to achieve the purpose. If none of the functions can be used, point it out and refuse to answer. If the given question lacks the parameters required by the function, also point it out.

You have access to the following tools:
<tools>${tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
The example format is as follows. Please make sure the parameter type is correct. If no function call is needed, please make the tool calls an empty list '[]'.
<tool_call>[
{"name": "func_name1", "arguments": {"argument1": "value1", "argument2": "value2"}},
... (more tool calls as required)
]</tool_call>`;
