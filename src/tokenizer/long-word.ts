/** What byte-pair encoding needs of a model: the rank of each merge, by the JSON of its two parts. */
export interface Merges {
  rankOf(left: string, right: string): number | undefined;
}

/** Merges between two pauses: about a millisecond of work. */
const MERGES_A_SLICE = 2000;
const POSITIONS = 2 ** 26;

/**
 * Byte-pair encoding of one long word (a text without a break), pausing every millisecond or so.
 *
 * The merge of lowest rank is done first, of equals the leftmost: the same pieces as the recursive definition gives, in
 * O(n log n) over typed arrays. Candidates wait in a heap as rank * 2^26 + position; one whose pair has changed since is
 * recognized by its rank and dropped.
 *
 * @returns the pieces, in order
 */
export function* mergeLongWord(word: string, merges: Merges): Generator<void, string[]> {
  const characters = Array.from(word);
  const n = characters.length;
  if (n >= POSITIONS) throw new RangeError('a word of more than 2^26 characters');
  const symbols = new Symbols(merges);
  const symbol = new Int32Array(n);
  const next = new Int32Array(n);
  const previous = new Int32Array(n);
  const heap = new Heap(2 * n);
  let work = 0;
  for (let i = 0; i < n; i++) {
    symbol[i] = symbols.intern(characters[i] as string);
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  const rankAt = (i: number) => symbols.rank(symbol[i] as number, symbol[next[i] as number] as number);
  const offer = (i: number) => {
    const rank = rankAt(i);
    if (rank >= 0) heap.push(rank * POSITIONS + i);
  };
  for (let i = 0; i + 1 < n; i++) {
    offer(i);
    if (++work % MERGES_A_SLICE === 0) yield;
  }
  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    if (++work % MERGES_A_SLICE === 0) yield;
    const i = key % POSITIONS;
    const right = next[i] as number;
    if (symbol[i] === GONE || right >= n || rankAt(i) !== Math.floor(key / POSITIONS)) continue;
    symbol[i] = symbols.joined(symbol[i] as number, symbol[right] as number);
    symbol[right] = GONE;
    const after = next[right] as number;
    next[i] = after;
    if (after < n) {
      previous[after] = i;
      offer(i);
    }
    if ((previous[i] as number) >= 0) offer(previous[i] as number);
  }
  const pieces: string[] = [];
  for (let i = 0; i < n; i = next[i] as number) pieces.push(symbols.text(symbol[i] as number));
  return pieces;
}

const GONE = -1;

/** Strings as small numbers, and what pairs of them merge to, looked up once each. */
class Symbols {
  private readonly ids = new Map<string, number>();
  private readonly texts: string[] = [];
  private readonly ranks = new Map<number, number>();

  constructor(private readonly merges: Merges) {}

  intern(text: string): number {
    let id = this.ids.get(text);
    if (id === undefined) {
      id = this.texts.push(text) - 1;
      this.ids.set(text, id);
    }
    return id;
  }

  text(id: number): string {
    return this.texts[id] as string;
  }

  /** Of the merge of a pair; -1 where there is none. */
  rank(left: number, right: number): number {
    const pair = left * POSITIONS + right;
    let rank = this.ranks.get(pair);
    if (rank === undefined) {
      rank = this.merges.rankOf(this.text(left), this.text(right)) ?? -1;
      this.ranks.set(pair, rank);
    }
    return rank;
  }

  joined(left: number, right: number): number {
    return this.intern(this.text(left) + this.text(right));
  }
}

/** A binary heap of numbers, the smallest on top. */
class Heap {
  private readonly keys: Float64Array;
  private size = 0;

  constructor(capacity: number) {
    this.keys = new Float64Array(capacity);
  }

  push(key: number): void {
    const { keys } = this;
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if ((keys[parent] as number) <= key) break;
      keys[at] = keys[parent] as number;
      at = parent;
    }
    keys[at] = key;
  }

  pop(): number | undefined {
    if (this.size === 0) return undefined;
    const { keys } = this;
    const top = keys[0] as number;
    const last = keys[--this.size] as number;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && (keys[child + 1] as number) < (keys[child] as number)) child++;
      if ((keys[child] as number) >= last) break;
      keys[at] = keys[child] as number;
      at = child;
    }
    keys[at] = last;
    return top;
  }
}
