import { FiligreeError } from '../errors.js';

/**
 * What each token stands for, in bytes. Text is the UTF-8 reading of the tokens' bytes one after another, whether it
 * is decoded at once or streamed; so both give the same text by construction.
 *
 * Two families: byte-level BPE writes every byte as one printable character (GPT-2's table); sentencepiece writes a
 * space as U+2581 and bytes without a piece as <0xNN>, and its decoder drops the space it put in front of the text.
 */

type Json = Record<string, unknown>;

export interface TokenBytesRule {
  family: 'byte-level' | 'sentencepiece';
  /** The decoder removes one space at the very start of a text. */
  stripsLeadingSpace: boolean;
}

const SPACE = /\u2581/g;
const BYTE_PIECE = /^<0x([0-9A-Fa-f]{2})>$/;
const encoder = new TextEncoder();

/** Reads the rule off a tokenizer.json's `decoder`. */
export function tokenBytesRule(tokenizerJson: Json): TokenBytesRule {
  const steps = flatten(tokenizerJson.decoder);
  const names = steps.map((step) => step.type);
  if (names.includes('ByteLevel')) return { family: 'byte-level', stripsLeadingSpace: false };
  const known = ['Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace'];
  const foreign = names.find((name) => !known.includes(name as string));
  if (foreign !== undefined) {
    throw new FiligreeError(
      'tokenizer_invalid',
      `The tokenizer's decoder "${foreign}" is not supported. Byte-level BPE and sentencepiece tokenizers are.`,
    );
  }
  const strips = steps.some(
    (step) =>
      (step.type === 'Strip' && Number(step.start) > 0) || (step.type === 'Metaspace' && prepends(step)),
  );
  return { family: 'sentencepiece', stripsLeadingSpace: strips };
}

/** Bytes of one token of the model's vocabulary (an added token is its own text). */
export function tokenToBytes(token: string, family: TokenBytesRule['family']): Uint8Array {
  if (family === 'sentencepiece') {
    const byte = BYTE_PIECE.exec(token);
    if (byte !== null) return Uint8Array.of(Number.parseInt(byte[1] as string, 16));
    return encoder.encode(token.replace(SPACE, ' '));
  }
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTE_OF.get(character);
    if (byte === undefined) bytes.push(...encoder.encode(character));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 and on. */
const BYTE_OF = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return map;
})();

function flatten(decoder: unknown): Json[] {
  if (decoder === null || typeof decoder !== 'object') return [];
  const step = decoder as Json;
  return step.type === 'Sequence' && Array.isArray(step.decoders) ? step.decoders.flatMap(flatten) : [step];
}

function prepends(step: Json): boolean {
  return step.prepend_scheme === undefined
    ? step.add_prefix_space !== false
    : step.prepend_scheme !== 'never';
}
