/**
 * Python's `random.Random`, as far as lm-evaluation-harness uses it to draw few-shot examples: MT19937 (Matsumoto and
 * Nishimura, 1998) seeded by an integer, and `sample`. The same seed draws the same examples.
 */
export class PythonRandom {
  private readonly state = new Uint32Array(624);
  private at = 624;

  /** @param seed from 0 to 2^32 - 1 */
  constructor(seed: number) {
    // init_by_array with a key of one word.
    const { state } = this;
    state[0] = 19650218;
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, mixed(state, i - 1)) + i;
    let i = 1;
    for (let k = 624; k > 0; k--) {
      state[i] = ((state[i] as number) ^ Math.imul(mixed(state, i - 1), 1664525)) + seed;
      if (++i === 624) {
        state[0] = state[623] as number;
        i = 1;
      }
    }
    for (let k = 623; k > 0; k--) {
      state[i] = ((state[i] as number) ^ Math.imul(mixed(state, i - 1), 1566083941)) - i;
      if (++i === 624) {
        state[0] = state[623] as number;
        i = 1;
      }
    }
    state[0] = 0x80000000;
  }

  /** `count` distinct indices below `population`, in the order drawn. */
  sample(population: number, count: number): number[] {
    if (count > population) throw new RangeError('sample larger than population');
    let setSize = 21;
    if (count > 5) setSize += 4 ** Math.ceil(Math.log(count * 3) / Math.log(4));
    if (population <= setSize) {
      const pool = Array.from({ length: population }, (_, i) => i);
      return Array.from({ length: count }, (_, i) => {
        const j = this.below(population - i);
        const chosen = pool[j] as number;
        pool[j] = pool[population - i - 1] as number;
        return chosen;
      });
    }
    const chosen = new Set<number>();
    while (chosen.size < count) chosen.add(this.below(population));
    return [...chosen];
  }

  /** Uniform in [0, n): as many random bits as n has, drawn again while they are too large. */
  private below(n: number): number {
    const bits = 32 - Math.clz32(n);
    for (;;) {
      const value = this.next() >>> (32 - bits);
      if (value < n) return value;
    }
  }

  private next(): number {
    const { state } = this;
    if (this.at === 624) {
      for (let k = 0; k < 624; k++) {
        const y = ((state[k] as number) & 0x80000000) | ((state[(k + 1) % 624] as number) & 0x7fffffff);
        state[k] = (state[(k + 397) % 624] as number) ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = state[this.at++] as number;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}

function mixed(state: Uint32Array, i: number): number {
  const word = state[i] as number;
  return word ^ (word >>> 30);
}
