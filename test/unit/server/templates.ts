import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PACKAGE_ROOT } from '../../../src/config.js';
import { shared, sharedJson } from '../tokenizer/fixtures.js';

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

const published = ['llama3.1', 'qwen2.5'].map((name) => ({
  name: `${name} as published`,
  path: `data/tokenizers/${name}/tokenizer_config.json`,
  controls: TEMPLATES.find((family) => family.name === name)?.controls ?? [],
}));
const isThere = ({ path }: { path: string }) => existsSync(join(shared, path));

/** Templates as their makers publish them, out of the reference data beside the repository. */
export const PUBLISHED: Family[] = published.filter(isThere).map(({ name, path, controls }) => ({
  name,
  template: sharedJson<{ chat_template: string }>(path).chat_template,
  controls,
}));

/** Those that are absent here, for a visible skip. */
export const ABSENT = published.filter((one) => !isThere(one));
