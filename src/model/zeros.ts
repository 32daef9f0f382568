import type { Encoding, TensorEntry, TensorPart } from './manifest.js';
import { invalid, type ReadableFile } from './model-file.js';

/** Bytes looked at between two turns of the event loop. */
const CHUNK = 4 << 20;

/**
 * How many elements of a tensor are exactly zero, by streaming its bytes once; null for layouts that would have to be
 * computed element by element (codes of odd widths, reordered groups).
 *
 * @throws FiligreeError `io_error` if the file became unreadable
 */
export async function countZeros(entry: TensorEntry, files: ReadableFile[]): Promise<number | null> {
  const elements = entry.shape.reduce((a, b) => a * b, 1);
  const { data, bitmask, weight, packed } = entry.parts;
  if (bitmask !== undefined) return elements - (await total(bitmask, 1, files, popcount));
  if (weight !== undefined) return quantizedZeros(entry, weight, 8, files);
  if (packed !== undefined)
    return entry.bits === 4 || entry.bits === 8 ? quantizedZeros(entry, packed, entry.bits, files) : null;
  if (data === undefined) return null;
  switch (entry.encoding) {
    case 'f32':
      return total(data, 4, files, (b) => zeroWords(new Uint32Array(aligned(b)), 0x7fffffff));
    case 'f16':
    case 'bf16':
      return total(data, 2, files, (b) => zeroWords(new Uint16Array(aligned(b)), 0x7fff));
    default: {
      const block = BLOCKS[entry.encoding];
      return block === undefined ? null : total(data, block.bytes, files, (b) => everyBlock(b, block));
    }
  }
}

async function total(
  part: TensorPart,
  unit: number,
  files: ReadableFile[],
  count: (bytes: Buffer) => number,
): Promise<number> {
  const step = Math.max(1, Math.floor(CHUNK / unit)) * unit;
  let sum = 0;
  for (let at = 0; at < part.bytes; at += step) {
    sum += count((files[part.file] as ReadableFile).read(part.offset + at, Math.min(step, part.bytes - at)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  return sum;
}

/** A copy whose memory begins where typed arrays want it to. */
const aligned = (bytes: Buffer): ArrayBuffer => new Uint8Array(bytes).buffer;

function zeroWords(words: Uint16Array | Uint32Array, magnitude: number): number {
  let n = 0;
  for (let i = 0; i < words.length; i++) if (((words[i] as number) & magnitude) === 0) n++;
  return n;
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length);

function popcount(bytes: Buffer): number {
  let n = 0;
  for (let i = 0; i < bytes.length; i++) n += BITS[bytes[i] as number] as number;
  return n;
}

/** Integer codes: an element is zero where its code equals its group's zero point. */
async function quantizedZeros(
  entry: TensorEntry,
  codes: TensorPart,
  bits: 4 | 8,
  files: ReadableFile[],
): Promise<number | null> {
  const { zero_point: zeroPart, g_idx: order, packed, scale } = entry.parts;
  if (order !== undefined && zeroPart !== undefined) return null;
  const [rows, cols] = entry.shape as [number, number];
  const scales = scale?.shape.reduce((a, b) => a * b, 1) ?? 1;
  const groups = scales % rows === 0 && scales > 1 ? scales / rows : 1;
  const zeros = zeroPart === undefined ? null : readZeroPoints(zeroPart, rows, groups, bits, scales, files);
  const group = groups === 1 ? cols : entry.groupSize || Math.ceil(cols / groups);
  const rowBytes = codes.bytes / rows;
  // An int8 holds the signed code, a packed word holds it raised by half its range.
  const raised = packed === undefined ? 0 : 2 ** (bits - 1);
  const low = 2 ** bits - 1;
  let row = 0;
  return total(codes, rowBytes, files, (bytes) => {
    let n = 0;
    for (let start = 0; start < bytes.length; start += rowBytes, row++) {
      for (let g = 0; g < groups; g++) {
        const target = ((zeros?.[zeros.length === 1 ? 0 : row * groups + g] ?? 0) + raised) & low;
        const end = Math.min(cols, (g + 1) * group);
        if (bits === 8) for (let c = g * group; c < end; c++) n += bytes[start + c] === target ? 1 : 0;
        else
          for (let c = g * group; c < end; c++)
            n += (((bytes[start + (c >> 1)] as number) >> ((c & 1) * 4)) & 15) === target ? 1 : 0;
      }
    }
    return n;
  });
}

/** Signed zero points, one for each scale: bytes as such, words packed along the rows. */
function readZeroPoints(
  part: TensorPart,
  rows: number,
  groups: number,
  bits: number,
  scales: number,
  files: ReadableFile[],
): number[] {
  const bytes = (files[part.file] as ReadableFile).read(part.offset, part.bytes);
  if (part.dtype === 'i8' && bytes.length === scales) return [...new Int8Array(aligned(bytes))];
  const perWord = 32 / bits;
  const at = (row: number, group: number) => {
    const position = 4 * (Math.floor(row / perWord) * groups + group);
    if (position + 4 > bytes.length) throw invalid('a zero point is missing; the file is damaged');
    return ((bytes.readUInt32LE(position) >>> ((row % perWord) * bits)) & (2 ** bits - 1)) - 2 ** (bits - 1);
  };
  return Array.from({ length: rows * groups }, (_, i) => at(Math.floor(i / groups), i % groups));
}

interface Block {
  bytes: number;
  elements: number;
  /** Zeros of the block at `at`. */
  zeros: (b: Buffer, at: number) => number;
}

const F16 = new Float32Array(1 << 16).map((_, h) => {
  const sign = h & 0x8000 ? -1 : 1;
  const exponent = (h >> 10) & 31;
  const mantissa = h & 1023;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15));
});
const half = (b: Buffer, at: number) => F16[(b[at] as number) | ((b[at + 1] as number) << 8)] as number;

/** Nibbles equal to `code` in a range of bytes; `low`, `high` say which halves count. */
function nibbles(b: Buffer, at: number, length: number, code: number, low = true, high = true): number {
  let n = 0;
  for (let i = at; i < at + length; i++) {
    if (low && ((b[i] as number) & 15) === code) n++;
    if (high && (b[i] as number) >> 4 === code) n++;
  }
  return n;
}

/** The code whose value scale * code + min is exactly 0 in f32, or -1; `all` where every code is. */
function zeroCode(scale: number, min: number, top: number): number | 'all' {
  if (scale === 0) return min === 0 ? 'all' : -1;
  const code = Math.round(-min / scale);
  return code >= 0 && code <= top && Math.fround(Math.fround(scale * code) + min) === 0 ? code : -1;
}

/** 32 elements of 5 bits: nibbles in 16 bytes, high bits in 4. */
function fiveBit(b: Buffer, high: number, low: number, code: number): number {
  const bits = b.readUInt32LE(high);
  let n = 0;
  for (let j = 0; j < 32; j++) {
    const nibble = j < 16 ? (b[low + j] as number) & 15 : (b[low + j - 16] as number) >> 4;
    if ((nibble | (((bits >>> j) & 1) << 4)) === code) n++;
  }
  return n;
}

/** The zero code of each of the eight groups of a q4_k or q5_k block. */
function kGroups(b: Buffer, at: number, top: number, count: (group: number, code: number) => number): number {
  const d = half(b, at);
  const dmin = half(b, at + 2);
  const s = (j: number) => b[at + 4 + j] as number;
  let n = 0;
  for (let g = 0; g < 8; g++) {
    const sc = g < 4 ? s(g) & 63 : (s(g + 4) & 15) | ((s(g - 4) >> 6) << 4);
    const mn = g < 4 ? s(g + 4) & 63 : (s(g + 4) >> 4) | ((s(g) >> 6) << 4);
    const code = zeroCode(Math.fround(d * sc), -Math.fround(dmin * mn), top);
    if (code === 'all') n += 32;
    else if (code >= 0) n += count(g, code);
  }
  return n;
}

const one = (code: number | 'all', count: (code: number) => number) =>
  code === 'all' ? 32 : code < 0 ? 0 : count(code);

const BLOCKS: Partial<Record<Encoding, Block>> = {
  q8_0: {
    bytes: 34,
    elements: 32,
    zeros: (b, at) => {
      if (half(b, at) === 0) return 32;
      let n = 0;
      for (let i = at + 2; i < at + 34; i++) if (b[i] === 0) n++;
      return n;
    },
  },
  q4_0: { bytes: 18, elements: 32, zeros: (b, at) => (half(b, at) === 0 ? 32 : nibbles(b, at + 2, 16, 8)) },
  q4_1: {
    bytes: 20,
    elements: 32,
    zeros: (b, at) => one(zeroCode(half(b, at), half(b, at + 2), 15), (code) => nibbles(b, at + 4, 16, code)),
  },
  q5_0: {
    bytes: 22,
    elements: 32,
    zeros: (b, at) => (half(b, at) === 0 ? 32 : fiveBit(b, at + 2, at + 6, 16)),
  },
  q5_1: {
    bytes: 24,
    elements: 32,
    zeros: (b, at) =>
      one(zeroCode(half(b, at), half(b, at + 2), 31), (code) => fiveBit(b, at + 4, at + 8, code)),
  },
  q4_k: {
    bytes: 144,
    elements: 256,
    zeros: (b, at) =>
      kGroups(b, at, 15, (g, code) =>
        nibbles(b, at + 16 + (g >> 1) * 32, 32, code, g % 2 === 0, g % 2 === 1),
      ),
  },
  q5_k: {
    bytes: 176,
    elements: 256,
    zeros: (b, at) =>
      kGroups(b, at, 31, (g, code) => {
        let n = 0;
        for (let l = 0; l < 32; l++) {
          const nibble = ((b[at + 48 + (g >> 1) * 32 + l] as number) >> ((g & 1) * 4)) & 15;
          if ((nibble | ((((b[at + 16 + l] as number) >> g) & 1) << 4)) === code) n++;
        }
        return n;
      }),
  },
  q6_k: {
    bytes: 210,
    elements: 256,
    zeros: (b, at) => {
      if (half(b, at + 208) === 0) return 256;
      let n = 0;
      for (let i = 0; i < 256; i++) {
        const upper = i >> 7;
        const quarter = (i >> 5) & 3;
        const l = i & 31;
        const nibble = ((b[at + upper * 64 + (quarter & 1) * 32 + l] as number) >> ((quarter >> 1) * 4)) & 15;
        const high = ((b[at + 128 + upper * 32 + l] as number) >> (2 * quarter)) & 3;
        if ((nibble | (high << 4)) === 32 || b[at + 192 + upper * 8 + quarter * 2 + (l >> 4)] === 0) n++;
      }
      return n;
    },
  },
};

function everyBlock(b: Buffer, block: Block): number {
  let n = 0;
  for (let at = 0; at + block.bytes <= b.length; at += block.bytes) n += block.zeros(b, at);
  return n;
}
