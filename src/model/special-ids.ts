import type { ModelConfig, TokenizerSource } from './manifest.js';

/** The id of a token text in a tokenizer.json structure, or null. */
export function tokenIdOf(tokenizer: TokenizerSource, text: string): number | null {
  const added = (tokenizer.tokenizerJson.added_tokens ?? []) as { id: number; content: string }[];
  const found = added.find((token) => token.content === text);
  if (found !== undefined) return found.id;
  const vocab = (tokenizer.tokenizerJson.model as { vocab: Record<string, number> }).vocab;
  return Object.hasOwn(vocab, text) ? (vocab[text] as number) : null;
}

/** Where the configuration names no id that ends a text, the tokenizer's eos token does; both agree on most models. */
export function addTokenizerEos(config: ModelConfig, tokenizer: TokenizerSource, problems: string[]): void {
  const text = tokenizer.config.eosToken;
  const id = text === null ? null : tokenIdOf(tokenizer, text);
  if (id !== null && id < config.vocabSize && !config.eosTokenIds.includes(id)) config.eosTokenIds.push(id);
  if (config.eosTokenIds.length === 0)
    problems.push('no token ends a text: answers run to their length limit');
}
