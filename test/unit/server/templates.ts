import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../../src/config.js';

const read = (name: string) =>
  readFileSync(join(PACKAGE_ROOT, 'test/fixtures/templates', `${name}.jinja`), 'utf8');

export interface Family {
  name: string;
  template: string;
  /** Control tokens of the family beside ChatML's, which every test tokenizer has. */
  controls: string[];
}

/** The families whose tool calls are read: their chat templates and the control tokens that those write. */
export const TEMPLATES: Family[] = [
  {
    name: 'llama3.1',
    template: read('llama3.1'),
    controls: [
      '<|begin_of_text|>',
      '<|start_header_id|>',
      '<|end_header_id|>',
      '<|eot_id|>',
      '<|eom_id|>',
      '<|python_tag|>',
    ],
  },
  {
    name: 'qwen2.5',
    template: read('qwen2.5'),
    controls: ['<tool_call>', '</tool_call>', '<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>'],
  },
  {
    name: 'mistral-v0.3',
    template: read('mistral-v0.3'),
    controls: [
      '<s>',
      '</s>',
      '[INST]',
      '[/INST]',
      '[TOOL_CALLS]',
      '[AVAILABLE_TOOLS]',
      '[/AVAILABLE_TOOLS]',
      '[TOOL_RESULTS]',
      '[/TOOL_RESULTS]',
    ],
  },
  { name: 'smollm2', template: read('smollm2'), controls: ['<repo_name>', '<file_sep>'] },
  {
    name: 'hermes3',
    template: read('hermes3'),
    controls: ['<tool_call>', '</tool_call>', '<tool_response>', '</tool_response>'],
  },
];
