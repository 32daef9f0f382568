import { stringify } from 'yaml';
import { packageVersion } from '../config.js';
import type { ModelManifest } from '../model/manifest.js';
import type { MatrixReport } from '../native/index.js';
import type { Recipe } from './options.js';

/** What the card tells: nothing that differs between two runs of one recipe. */
export interface CardFacts {
  manifest: ModelManifest;
  recipe: Recipe;
  sparsity: number;
  perplexity: { before: number; after: number; tokens: number } | null;
  reports: MatrixReport[];
  parameters: number;
}

export const recipeYaml = (recipe: Recipe): string =>
  `# filigree compress MODEL -o OUT --recipe recipe.yaml\n${stringify(recipe)}`;

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

function pruning({ recipe, sparsity }: CardFacts): string {
  if (recipe.mask !== null)
    return `the zeros of another model taken over, ${percent(sparsity)} of the layers' matrices`;
  if (recipe.keepMask) return `the zeros of the original kept, ${percent(sparsity)} of the layers' matrices`;
  const how = {
    none: 'not pruned',
    magnitude: 'magnitude',
    wanda: 'Wanda',
    sparsegpt: 'SparseGPT',
    alps: 'ALPS',
  };
  return `${how[recipe.solver]}, ${recipe.pattern}, ${recipe.allocation} allocation: ${percent(sparsity)} zeros in the layers' matrices`;
}

function quantization({ recipe }: CardFacts): string {
  const names = {
    none: 'none',
    i8: '8 bits, one scale a row',
    i4: `4 bits, one scale for ${recipe.group} columns`,
  };
  if (recipe.quantize === 'none') return 'none';
  const rounding = {
    gptq: 'GPTQ over the mask',
    nearest: 'rounded to nearest',
    search: 'rounded to nearest, searched scales',
  }[recipe.rounding];
  const smooth = recipe.smooth > 0 ? `, SmoothQuant ${recipe.smooth}` : '';
  return `${names[recipe.quantize]}, ${rounding}${smooth}; embedding and head ${names[recipe.embeddings]}`;
}

/** Mean over layers of a kind of matrix. */
function table(reports: MatrixReport[]): string {
  const kinds = new Map<string, MatrixReport[]>();
  for (const r of reports) {
    const kind = r.name.replace(/^model\.layers\.\d+\./, '').replace(/\.weight$/, '');
    kinds.set(kind, [...(kinds.get(kind) ?? []), r]);
  }
  const mean = (values: (number | null)[]) => {
    const known = values.filter((v) => v !== null);
    return known.length === 0 ? '–' : (known.reduce((a, b) => a + b, 0) / known.length).toPrecision(3);
  };
  const rows = [...kinds].map(
    ([kind, list]) =>
      `| ${kind} | ${percent(list.reduce((s, r) => s + r.zeros / (r.rows * r.cols), 0) / list.length)} | ${mean(list.map((r) => r.errorPruned))} | ${mean(list.map((r) => r.error))} |`,
  );
  return ['| matrix | zeros | error, pruned | error, as stored |', '|---|---|---|---|', ...rows].join('\n');
}

/** README.md of the output folder. */
export function modelCard(facts: CardFacts): string {
  const { manifest, perplexity } = facts;
  const scores =
    perplexity === null
      ? ''
      : `
## Scores

| | perplexity |
|---|---|
| ${manifest.name} | ${perplexity.before.toFixed(3)} |
| this model | ${perplexity.after.toFixed(3)} |

Over ${perplexity.tokens} predicted tokens of the held-out text (\`heldOut\` in recipe.yaml), weights as stored, activations not rounded.
\`filigree eval\` measures tasks.
`;
  return `# ${manifest.name}, sparse

Made from ${manifest.name} (${(facts.parameters / 1e6).toFixed(0)} M parameters) by filigree ${packageVersion()}.

- pruning: ${pruning(facts)}
- quantization: ${quantization(facts)}
- format: compressed-tensors \`sparse-bitmask\`${facts.recipe.quantize === 'none' ? '' : ' over integer codes'} (filigree's models/FORMAT.md)

\`\`\`
filigree compress ${manifest.name} -o OUT --recipe recipe.yaml
filigree serve OUT
\`\`\`
${scores}
## Matrices

Errors are the share of a matrix's output, squared, that the compressed one misses over the calibration text; means over the layers.

${table(facts.reports)}

The licence is that of the original model.
`;
}
