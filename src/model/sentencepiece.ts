import { FiligreeError } from '../errors.js';

export type PieceKind = 'normal' | 'unknown' | 'control' | 'user' | 'unused' | 'byte';

export interface Piece {
  text: string;
  score: number;
  kind: PieceKind;
}

/** What a sentencepiece BPE vocabulary is, from a tokenizer.model or a GGUF's `llama` tokenizer. */
export interface SentencePieceModel {
  pieces: Piece[];
  addDummyPrefix: boolean;
  byteFallback: boolean;
  /** -1 where there is none. */
  unkId: number;
  bosId: number;
  eosId: number;
}

/** Numbers of ModelProto.SentencePiece.Type, which GGUF's token types repeat. */
export const PIECE_KINDS: Record<number, PieceKind> = {
  1: 'normal',
  2: 'unknown',
  3: 'control',
  4: 'user',
  5: 'unused',
  6: 'byte',
};

const fail = (message: string) => new FiligreeError('tokenizer_invalid', `tokenizer.model: ${message}`);

/** One field of a protocol buffer message: varints as numbers, fixed32 as its bytes. */
interface Field {
  number: number;
  value: number | Buffer;
}

function* fields(bytes: Buffer): Generator<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = bytes[at++];
      if (byte === undefined) throw fail('it ends in the middle of a number; it is truncated or damaged');
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw fail('it holds a number that is too long; it is damaged');
  };
  const take = (length: number): Buffer => {
    if (length > bytes.length - at)
      throw fail('it ends in the middle of a field; it is truncated or damaged');
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    switch (key % 8) {
      case 0:
        yield { number, value: varint() };
        break;
      case 1:
        yield { number, value: take(8) };
        break;
      case 2:
        yield { number, value: take(varint()) };
        break;
      case 5:
        yield { number, value: take(4) };
        break;
      default:
        throw fail('it is not a sentencepiece model');
    }
  }
}

const asBytes = (field: Field): Buffer => {
  if (typeof field.value === 'number') throw fail('a field has the wrong type; it is damaged');
  return field.value;
};

const asNumber = (field: Field): number => {
  if (typeof field.value !== 'number') throw fail('a field has the wrong type; it is damaged');
  // int32 fields write -1 as a 64-bit number.
  return field.value >= 2 ** 63 ? -1 : field.value;
};

// A byte order mark is a piece of its own in some vocabularies: it must not be dropped.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Reads sentencepiece's ModelProto (sentencepiece_model.proto), of the BPE kind that Llama 2 and Mistral use.
 *
 * @throws FiligreeError `tokenizer_invalid`
 */
export function readSentencePiece(bytes: Buffer): SentencePieceModel {
  const model: SentencePieceModel = {
    pieces: [],
    addDummyPrefix: true,
    byteFallback: false,
    unkId: 0,
    bosId: 1,
    eosId: 2,
  };
  let kind = 1;
  for (const field of fields(bytes)) {
    if (field.number === 1) model.pieces.push(readPiece(asBytes(field)));
    if (field.number === 2) {
      for (const f of fields(asBytes(field))) {
        if (f.number === 3) kind = asNumber(f);
        if (f.number === 35) model.byteFallback = asNumber(f) !== 0;
        if (f.number === 40) model.unkId = asNumber(f);
        if (f.number === 41) model.bosId = asNumber(f);
        if (f.number === 42) model.eosId = asNumber(f);
      }
    }
    if (field.number === 3) {
      for (const f of fields(asBytes(field))) {
        if (f.number === 2 && asBytes(f).length > 0)
          throw fail('its text normalization (a character map) is not supported');
        if (f.number === 3) model.addDummyPrefix = asNumber(f) !== 0;
      }
    }
  }
  if (model.pieces.length === 0) throw fail('it holds no pieces; it is not a sentencepiece model');
  if (kind !== 2) throw fail('it is not of the BPE kind, the only one supported');
  return model;
}

function readPiece(bytes: Buffer): Piece {
  const piece: Piece = { text: '', score: 0, kind: 'normal' };
  for (const f of fields(bytes)) {
    if (f.number === 1) {
      try {
        piece.text = utf8.decode(asBytes(f));
      } catch {
        throw fail('a piece is not valid UTF-8; it is damaged');
      }
    }
    if (f.number === 2) {
      const raw = asBytes(f);
      if (raw.length !== 4) throw fail('a score has the wrong type; it is damaged');
      piece.score = raw.readFloatLE(0);
    }
    if (f.number === 3) {
      const kind = PIECE_KINDS[asNumber(f)];
      if (kind === undefined) throw fail('a piece is of an unknown kind; it is damaged');
      piece.kind = kind;
    }
  }
  return piece;
}
