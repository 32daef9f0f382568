import { type BlockHash, saltHash, seededHash } from './block-hash.js';
import { type CacheJournal, type CacheOrigin, NO_ORIGIN } from './cache-journal.js';
import { FreeQueue } from './free-queue.js';
import { BLOCK_SIZE, type BlockCopy } from './model-runner.js';

/**
 * Who owns which KV block.
 *
 * A block holds 16 tokens. It is referenced by every sequence whose table lists it, and is free when nobody does. A
 * block that is full and computed may also be *cached*: it then is a node of a prefix tree, found again by a hash
 * chained over (parent, tokens) and confirmed by comparing parent and tokens, so that a hash collision costs a
 * comparison and never a wrong answer. A free cached block keeps its contents until its memory is needed.
 *
 * Only full blocks are cached, and `commit` replaces a sequence's duplicate of a cached block by the cached one. Two
 * things follow: who references a node references all its ancestors, and tables are released tail first; so in the
 * queue of free blocks a child always stands before its parent, and evicting from the head never orphans a node.
 *
 * A shared block is never written. The one case in which a sequence must write into a block it found in the cache is
 * a prompt that is cached to its very last token, whose logits are still needed: that block is copied (`BlockCopy`).
 *
 * Costs: O(1) per block taken or released, one hash of 16 tokens per block looked up or committed, no allocation
 * but the nodes. Shortage is a return value; a broken invariant throws.
 */

interface CacheNode {
  block: number;
  hash: number;
  parent: CacheNode | null;
  /** Distinguishes the roots of different callers; inherited through `parent` below a root. */
  salt: string;
  tokens: Int32Array;
  children: number;
  /** Next node with the same hash. */
  next: CacheNode | null;
  /** Its name outside; null where no journal is kept. */
  digest: Buffer | null;
}

/** Blocks of one sequence, in order of position. */
export class BlockTable {
  blocks = new Int32Array(8);
  length = 0;
  /** The first so many blocks are nodes of the prefix tree; `node` is the last of them. */
  committed = 0;
  node: CacheNode | null = null;
  /** Source of a copy that the step to come performs, kept alive until then. */
  copySource = -1;

  constructor(
    readonly salt: string = '',
    /** What the salt is made of, for the journal. */
    readonly origin: CacheOrigin = NO_ORIGIN,
  ) {}

  push(block: number): void {
    if (this.length === this.blocks.length) {
      const grown = new Int32Array(this.length * 2);
      grown.set(this.blocks);
      this.blocks = grown;
    }
    this.blocks[this.length++] = block;
  }

  /** Blocks of the first `tokens` positions: a view, valid until the table changes. */
  view(tokens: number): Int32Array {
    return this.blocks.subarray(0, blocksFor(tokens));
  }
}

export interface Admission {
  /** Tokens whose keys and values are there already. */
  cachedTokens: number;
  /** A copy that the next step must perform before anything else. */
  copy: BlockCopy | null;
}

export interface BlockManagerOptions {
  prefixCache: boolean;
  /** Replaceable so that tests can force collisions. */
  hash?: BlockHash;
  /** Told of every block that becomes cached, and that no longer is. */
  journal?: CacheJournal | undefined;
}

export function blocksFor(tokens: number): number {
  return Math.ceil(tokens / BLOCK_SIZE);
}

export class BlockManager {
  private readonly references: Int32Array;
  private readonly nodes: (CacheNode | null)[];
  private readonly index = new Map<number, CacheNode>();
  private readonly queue: FreeQueue;
  private readonly hash: BlockHash;
  private readonly journal: CacheJournal | undefined;
  readonly prefixCache: boolean;

  constructor(
    readonly numBlocks: number,
    options: BlockManagerOptions,
  ) {
    if (!Number.isInteger(numBlocks) || numBlocks < 1) {
      throw new RangeError(`a KV cache needs at least one block, got ${numBlocks}`);
    }
    this.references = new Int32Array(numBlocks);
    this.nodes = new Array(numBlocks).fill(null);
    this.queue = new FreeQueue(numBlocks);
    this.hash = options.hash ?? seededHash();
    this.journal = options.journal;
    this.prefixCache = options.prefixCache;
  }

  /** Blocks that nobody references, cached ones included. */
  get free(): number {
    return this.queue.size;
  }

  get used(): number {
    return this.numBlocks - this.queue.size;
  }

  /** Whole blocks of `tokens[0 .. length)` that the cache holds, from the start on. */
  countCached(tokens: Int32Array, length: number, salt: string): number {
    return this.match(tokens, length, salt).length;
  }

  /**
   * Fills an empty table with the blocks of `tokens[0 .. length)`, cached ones among the first `cacheable` tokens. The
   * last token always remains to be computed. Null when fewer than `reserve` blocks would stay free; nothing changes then.
   */
  admit(
    table: BlockTable,
    tokens: Int32Array,
    length: number,
    cacheable: number,
    reserve: number,
  ): Admission | null {
    if (table.length !== 0) throw new Error('admit: the table is not empty');
    const hits = this.match(tokens, Math.min(length, cacheable), table.salt);
    const whole = hits.length * BLOCK_SIZE === length;
    // A prompt cached to its last token: copy the last block, or recompute it when there is no room for both.
    const source = whole ? hits.pop() : undefined;
    const needed = blocksFor(length) - hits.length;
    let waiting = 0;
    for (const node of hits) if (this.references[node.block] === 0) waiting++;
    const sourceWaits = source !== undefined && this.references[source.block] === 0 ? 1 : 0;
    const available = this.queue.size - waiting - reserve;
    if (needed > available) return null;
    const copies = source !== undefined && needed + sourceWaits <= available;

    for (const node of hits) {
      this.reference(node.block);
      table.push(node.block);
    }
    table.committed = hits.length;
    table.node = hits.at(-1) ?? null;
    if (copies) {
      this.reference(source.block);
      table.copySource = source.block;
    }
    for (let i = 0; i < needed; i++) table.push(this.take());
    if (!copies) return { cachedTokens: hits.length * BLOCK_SIZE, copy: null };
    const to = table.blocks[table.length - 1] as number;
    return { cachedTokens: length - 1, copy: { from: source.block, to } };
  }

  /** Makes room for `tokens` positions. False when there are not enough blocks; nothing changes then. */
  grow(table: BlockTable, tokens: number): boolean {
    const needed = blocksFor(tokens) - table.length;
    if (needed > this.queue.size) return false;
    for (let i = 0; i < needed; i++) table.push(this.take());
    return true;
  }

  /** After a step: the keys and values of `tokens[0 .. computed)` are in the table's blocks. */
  commit(table: BlockTable, tokens: Int32Array, computed: number): void {
    this.dropCopySource(table);
    if (!this.prefixCache) return;
    const full = Math.floor(computed / BLOCK_SIZE);
    if (full > table.length) throw new Error('commit: more tokens computed than the table has room for');
    while (table.committed < full) {
      const at = table.committed;
      const offset = at * BLOCK_SIZE;
      const own = table.blocks[at] as number;
      const hash = this.hash(table.node?.hash ?? saltHash(table.salt), tokens, offset);
      let node = this.find(hash, table.node, table.salt, tokens, offset);
      if (node === null) {
        node = {
          block: own,
          hash,
          parent: table.node,
          salt: table.salt,
          tokens: tokens.slice(offset, offset + BLOCK_SIZE),
          children: 0,
          next: this.index.get(hash) ?? null,
          digest: null,
        };
        if (node.parent !== null) node.parent.children++;
        this.index.set(hash, node);
        this.nodes[own] = node;
        if (this.journal) this.announce(node, this.journal, table.origin);
      } else if (node.block !== own) {
        this.reference(node.block);
        table.blocks[at] = node.block;
        this.dereference(own);
      }
      table.node = node;
      table.committed++;
    }
  }

  /** Gives all blocks of the table back, tail first. Cached ones stay findable until their memory is needed. */
  release(table: BlockTable): void {
    this.dropCopySource(table);
    for (let i = table.length - 1; i >= 0; i--) this.dereference(table.blocks[i] as number);
    table.length = 0;
    table.committed = 0;
    table.node = null;
  }

  /**
   * Forgets every free cached block, and those of the table that no other sequence uses: for a sequence whose values
   * turned out not to be finite, so that nobody inherits them.
   */
  distrust(table: BlockTable): void {
    this.clearCache();
    for (let i = table.committed - 1; i >= 0; i--) {
      const block = table.blocks[i] as number;
      const node = this.nodes[block];
      if (!node || node.children > 0 || this.references[block] !== 1) break;
      this.uncache(node);
      table.committed = i;
      table.node = node.parent;
    }
  }

  /** Forgets the contents of all free blocks. */
  clearCache(): void {
    for (const block of this.queue.list()) {
      const node = this.nodes[block];
      if (!node) continue;
      this.uncache(node);
      this.queue.remove(block);
      this.queue.pushFront(block);
    }
  }

  /** Names of all blocks that the cache holds now; empty where no journal is kept. */
  digests(): Buffer[] {
    return this.nodes.flatMap((node) => node?.digest ?? []);
  }

  /** Verifies every invariant against the complete list of live tables; throws what is wrong. */
  check(tables: Iterable<BlockTable>): void {
    const counted = new Int32Array(this.numBlocks);
    for (const table of tables) {
      for (let i = 0; i < table.length; i++) counted[table.blocks[i] as number]!++;
      if (table.copySource >= 0) counted[table.copySource]!++;
      let node = table.node;
      for (let i = table.committed - 1; i >= 0; i--) {
        ensure(node !== null && node.block === table.blocks[i], 'a committed block is not the tree node');
        node = node.parent;
      }
      ensure(node === null, 'the committed chain does not end at a root');
    }
    const queued = new Set(this.queue.list());
    ensure(queued.size === this.queue.size, 'the free queue lists a block twice');
    let cached = 0;
    const children = new Map<CacheNode, number>();
    for (let block = 0; block < this.numBlocks; block++) {
      ensure(
        this.references[block] === counted[block],
        `block ${block} is referenced ${counted[block]} times`,
      );
      ensure(queued.has(block) === (counted[block] === 0), `block ${block} is free and in use, or neither`);
      const node = this.nodes[block];
      if (!node) continue;
      cached++;
      ensure(node.block === block, `block ${block} has the node of another`);
      if (node.parent === null) continue;
      ensure(this.nodes[node.parent.block] === node.parent, `block ${block} is an orphan`);
      children.set(node.parent, (children.get(node.parent) ?? 0) + 1);
    }
    for (const first of this.index.values()) {
      for (let node: CacheNode | null = first; node !== null; node = node.next) {
        cached--;
        ensure(this.nodes[node.block] === node, `the index holds an evicted node of block ${node.block}`);
        ensure(node.children === (children.get(node) ?? 0), `node ${node.block} miscounts its children`);
      }
    }
    ensure(cached === 0, 'the index and the nodes differ in number');
  }

  private match(tokens: Int32Array, length: number, salt: string): CacheNode[] {
    const hits: CacheNode[] = [];
    if (!this.prefixCache) return hits;
    let parent: CacheNode | null = null;
    for (let offset = 0; offset + BLOCK_SIZE <= length; offset += BLOCK_SIZE) {
      const hash = this.hash(parent?.hash ?? saltHash(salt), tokens, offset);
      parent = this.find(hash, parent, salt, tokens, offset);
      if (parent === null) break;
      hits.push(parent);
    }
    return hits;
  }

  private find(
    hash: number,
    parent: CacheNode | null,
    salt: string,
    tokens: Int32Array,
    offset: number,
  ): CacheNode | null {
    for (let node = this.index.get(hash) ?? null; node !== null; node = node.next) {
      if (node.parent === parent && node.salt === salt && sameTokens(node.tokens, tokens, offset))
        return node;
    }
    return null;
  }

  private take(): number {
    const block = this.queue.popFront();
    const node = this.nodes[block];
    if (node) this.uncache(node);
    this.references[block] = 1;
    return block;
  }

  private announce(node: CacheNode, journal: CacheJournal, origin: CacheOrigin): void {
    const parent = node.parent?.digest ?? null;
    node.digest = journal.digest(parent, node.tokens, origin);
    journal.stored(node.digest, parent, node.tokens, origin);
  }

  private uncache(node: CacheNode): void {
    if (node.children !== 0) throw new Error(`block ${node.block} is evicted before its children`);
    if (node.digest !== null) this.journal?.removed(node.digest);
    if (node.parent !== null) node.parent.children--;
    this.nodes[node.block] = null;
    const first = this.index.get(node.hash);
    if (first === node) {
      if (node.next === null) this.index.delete(node.hash);
      else this.index.set(node.hash, node.next);
      return;
    }
    let before = first;
    while (before && before.next !== node) before = before.next ?? undefined;
    if (!before) throw new Error(`the cached block ${node.block} is not in the index`);
    before.next = node.next;
  }

  private reference(block: number): void {
    if (this.references[block] === 0) this.queue.remove(block);
    this.references[block]!++;
  }

  private dereference(block: number): void {
    const left = (this.references[block] as number) - 1;
    if (left < 0) throw new Error(`block ${block} is released more often than it was taken`);
    this.references[block] = left;
    if (left > 0) return;
    // What holds nothing worth keeping is used up first; the rest in order of last use.
    if (this.nodes[block]) this.queue.pushBack(block);
    else this.queue.pushFront(block);
  }

  private dropCopySource(table: BlockTable): void {
    if (table.copySource < 0) return;
    const source = table.copySource;
    table.copySource = -1;
    this.dereference(source);
  }
}

function sameTokens(cached: Int32Array, tokens: Int32Array, offset: number): boolean {
  for (let i = 0; i < BLOCK_SIZE; i++) if (cached[i] !== tokens[offset + i]) return false;
  return true;
}

function ensure(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`block accounting: ${message}`);
}
