import type { Grammar } from '../../../src/engine/model-runner.js';
import { type ConstraintSpec, constraintProgram, tokenTable } from '../../../src/grammar/index.js';
import { createMatcher, NativeGrammars } from '../../../src/native/index.js';
import type { Tokenizer } from '../../../src/tokenizer/index.js';

/** Every byte a token, and id 256 the end of the text. */
export const END = 256;
export const bytesVocabulary = new NativeGrammars(async () => ({
  bytes: Uint8Array.from({ length: 256 }, (_, i) => i),
  offsets: Int32Array.from({ length: 258 }, (_, i) => Math.min(i, 256)),
  control: Int32Array.of(END),
  ends: Int32Array.of(END),
  stripsLeadingSpace: false,
}));

export const compiled = async (spec: ConstraintSpec): Promise<Grammar> =>
  bytesVocabulary.compile(constraintProgram(spec, 'test'));

/** Whether a text is exactly one of the grammar's. */
export function accepts(grammar: Grammar, text: string): boolean {
  const matcher = createMatcher(grammar);
  for (const byte of Buffer.from(text)) if (!matcher.accept(byte)) return false;
  return matcher.complete;
}

export async function language(spec: ConstraintSpec): Promise<(text: string) => boolean> {
  const grammar = await compiled(spec);
  return (text) => accepts(grammar, text);
}

export const allows = (mask: Uint32Array, token: number): boolean =>
  (((mask[token >> 5] as number) >>> (token & 31)) & 1) === 1;

export function grammarsOf(tokenizer: Tokenizer, vocabSize = tokenizer.vocabSize): NativeGrammars {
  return new NativeGrammars(() => tokenTable(tokenizer, vocabSize, [tokenizer.eosId as number]));
}
