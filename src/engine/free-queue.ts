/** Free blocks as a doubly linked list inside two arrays: any block leaves in O(1). */
export class FreeQueue {
  private readonly previous: Int32Array;
  private readonly following: Int32Array;
  /** Index of the sentinel that closes the ring. */
  private readonly ring: number;
  size = 0;

  constructor(capacity: number) {
    this.ring = capacity;
    this.previous = new Int32Array(capacity + 1);
    this.following = new Int32Array(capacity + 1);
    this.previous[capacity] = capacity;
    this.following[capacity] = capacity;
    for (let block = 0; block < capacity; block++) this.pushBack(block);
  }

  pushBack(block: number): void {
    this.insert(block, this.previous[this.ring] as number, this.ring);
  }

  pushFront(block: number): void {
    this.insert(block, this.ring, this.following[this.ring] as number);
  }

  popFront(): number {
    if (this.size === 0) throw new Error('no free block is left');
    const block = this.following[this.ring] as number;
    this.remove(block);
    return block;
  }

  remove(block: number): void {
    const before = this.previous[block] as number;
    const after = this.following[block] as number;
    this.following[before] = after;
    this.previous[after] = before;
    this.size--;
  }

  list(): number[] {
    const blocks: number[] = [];
    for (let at = this.following[this.ring] as number; at !== this.ring; at = this.following[at] as number) {
      blocks.push(at);
    }
    return blocks;
  }

  private insert(block: number, before: number, after: number): void {
    this.previous[block] = before;
    this.following[block] = after;
    this.following[before] = block;
    this.previous[after] = block;
    this.size++;
  }
}
