import type { Grammar, GrammarCompiler, TokenTable } from '../engine/model-runner.js';
import type { NativeMatcher, NativeVocabulary } from './addon-types.js';
import { loadAddon } from './load-addon.js';

/** Compiles constraints for one vocabulary. The vocabulary's trie is built with the first of them. */
export class NativeGrammars implements GrammarCompiler {
  private vocabulary: Promise<NativeVocabulary> | null = null;

  constructor(private readonly table: () => Promise<TokenTable>) {}

  async compile(program: Int32Array): Promise<Grammar> {
    this.vocabulary ??= this.build();
    return (await this.vocabulary).compile(program);
  }

  private async build(): Promise<NativeVocabulary> {
    const { bytes, offsets, control, ends, stripsLeadingSpace } = await this.table();
    return loadAddon().createVocabulary(bytes, offsets, control, ends, stripsLeadingSpace);
  }
}

/** Follows one text under a grammar without an engine: for tests and tools. */
export function createMatcher(grammar: Grammar, continuation = false): NativeMatcher {
  return new (loadAddon().Matcher)(grammar, continuation);
}
