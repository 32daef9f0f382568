import { FiligreeError } from '../errors.js';
import type { JsonObject } from './fields.js';
import type { GgufFields } from './gguf-fields.js';
import type { TokenizerSource } from './manifest.js';
import { PRE_TOKENIZERS } from './pre-tokenizers.js';
import { PIECE_KINDS, type SentencePieceModel } from './sentencepiece.js';
import { addedToken, spmTokenizerJson, surroundingTokens } from './spm-tokenizer.js';

const fail = (message: string) => new FiligreeError('tokenizer_invalid', message);

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER = 4;

/**
 * A tokenizer.json structure out of `tokenizer.ggml.*`: byte-level BPE (`gpt2`) with the cut that
 * `tokenizer.ggml.pre` names, or sentencepiece BPE (`llama`).
 *
 * @throws FiligreeError `tokenizer_invalid`, `model_unsupported`
 */
export function readGgufTokenizer(g: GgufFields, problems: string[]): TokenizerSource {
  const kind = g.string('tokenizer.ggml.model');
  const tokens = g.strings('tokenizer.ggml.tokens');
  if (tokens.length === 0 || tokens.length > 1 << 24)
    throw fail(`${g.where}: its tokenizer has ${tokens.length} tokens`);
  const types = g.numbers('tokenizer.ggml.token_type', tokens.length);
  const id = (key: string, fallback: number): number => {
    if (!g.has(key)) return fallback;
    const value = g.integer(key, 0, 2 ** 32 - 1);
    if (value < tokens.length) return value;
    // llama.cpp writes 2^32 - 1 for none.
    if (value !== 2 ** 32 - 1)
      problems.push(`metadata ${key} ${value} is outside the vocabulary and was ignored`);
    return -1;
  };
  const spm = kind === 'llama';
  const bosId = id('tokenizer.ggml.bos_token_id', spm ? 1 : -1);
  const eosId = id('tokenizer.ggml.eos_token_id', spm ? 2 : -1);
  const unkId = id('tokenizer.ggml.unknown_token_id', spm ? 0 : -1);
  const padId = id('tokenizer.ggml.padding_token_id', -1);
  const pre = g.string('tokenizer.ggml.pre', 'default');
  const text = (i: number): string | null => tokens[i] ?? null;
  const config: TokenizerSource['config'] = {
    bosToken: text(bosId),
    eosToken: text(eosId),
    unkToken: text(unkId),
    padToken: text(padId),
    // llama.cpp's defaults: sentencepiece and Llama 3 begin with BOS, other byte-level kinds do not.
    addBos:
      g.boolean('tokenizer.ggml.add_bos_token', spm || PRE_TOKENIZERS[pre]?.ignoreMerges === true) &&
      bosId >= 0,
    addEos: g.boolean('tokenizer.ggml.add_eos_token', false) && eosId >= 0,
    cleanUpTokenizationSpaces: false,
  };
  const around = {
    bos: config.addBos ? ([text(bosId), bosId] as [string, number]) : null,
    eos: config.addEos ? ([text(eosId), eosId] as [string, number]) : null,
  };
  let tokenizerJson: JsonObject;
  if (spm) {
    const model = spmModel(g, tokens, types, { unkId, bosId, eosId });
    tokenizerJson = spmTokenizerJson(model, { bos: around.bos?.[0] ?? null, eos: around.eos?.[0] ?? null });
  } else if (kind === 'gpt2') {
    tokenizerJson = byteLevelJson(g, tokens, types, pre, problems);
    tokenizerJson.post_processor = surroundingTokens(around.bos, around.eos);
  } else {
    throw new FiligreeError(
      'model_unsupported',
      `${g.where}: its tokenizer is of the kind ${JSON.stringify(kind.slice(0, 40))}; gpt2 (byte-level BPE) and llama (sentencepiece BPE) are read`,
    );
  }
  return { tokenizerJson, tokenizerConfigJson: {}, origin: 'gguf', config };
}

function spmModel(
  g: GgufFields,
  tokens: string[],
  types: ArrayLike<number> | null,
  ids: { unkId: number; bosId: number; eosId: number },
): SentencePieceModel {
  const scores = g.numbers('tokenizer.ggml.scores', tokens.length);
  if (scores === null) throw fail(`${g.where}: its sentencepiece tokenizer has no scores`);
  const pieces = tokens.map((text, i) => ({
    text,
    score: scores[i] as number,
    kind: PIECE_KINDS[types?.[i] ?? NORMAL] ?? 'normal',
  }));
  return {
    pieces,
    ...ids,
    addDummyPrefix: g.boolean('tokenizer.ggml.add_space_prefix', true),
    byteFallback: pieces.some((piece) => piece.kind === 'byte'),
  };
}

function byteLevelJson(
  g: GgufFields,
  tokens: string[],
  types: ArrayLike<number> | null,
  pre: string,
  problems: string[],
): JsonObject {
  const rule = Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined;
  if (rule === undefined) {
    throw new FiligreeError(
      'model_unsupported',
      `${g.where}: how it cuts text (tokenizer.ggml.pre ${JSON.stringify(pre.slice(0, 40))}) is not known; ` +
        `known are ${Object.keys(PRE_TOKENIZERS).join(', ')}. Use the model's Hugging Face folder instead`,
    );
  }
  if (pre === 'default')
    problems.push(
      'tokenizer.ggml.pre is not given: text is cut by the old default, which may be wrong for this model',
    );
  const vocab = new Map<string, number>();
  const added: JsonObject[] = [];
  for (const [id, token] of tokens.entries()) {
    if (vocab.has(token)) {
      problems.push(
        `token ${id} repeats the text of token ${vocab.get(token)} and cannot be produced from text`,
      );
      continue;
    }
    vocab.set(token, id);
    const type = types?.[id] ?? NORMAL;
    if (type === CONTROL || type === UNKNOWN || type === USER)
      added.push({ ...addedToken(id, token, type !== USER) });
  }
  const merges = g.strings('tokenizer.ggml.merges').map((merge) => {
    // The separator is the first space after the first character: a token never holds a space, it is Ġ in bytes.
    const at = merge.indexOf(' ', 1);
    if (at < 1 || at === merge.length - 1)
      throw fail(`${g.where}: its merge ${JSON.stringify(merge.slice(0, 60))} is not two tokens`);
    return [merge.slice(0, at), merge.slice(at + 1)] as const;
  });
  const unknown = merges.filter(([a, b]) => !vocab.has(a) || !vocab.has(b) || !vocab.has(a + b)).length;
  if (unknown > 0)
    problems.push(`${unknown} merges name tokens that are not in the vocabulary and were dropped`);
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: rule.normalizer,
    pre_tokenizer: { type: 'Sequence', pretokenizers: rule.stages },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: rule.ignoreMerges,
      vocab: Object.fromEntries(vocab),
      merges:
        unknown === 0 ? merges : merges.filter(([a, b]) => vocab.has(a) && vocab.has(b) && vocab.has(a + b)),
    },
  };
}
