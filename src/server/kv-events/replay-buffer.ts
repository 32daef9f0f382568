/** The last batches that were published, by sequence number: bounded in number and in bytes, oldest out first. */
export class ReplayBuffer {
  private readonly batches: Buffer[] = [];
  private first = 0;
  private bytes = 0;

  constructor(
    private readonly limit: number,
    private readonly byteLimit: number,
  ) {}

  /** Sequence number of the batch added next. */
  get next(): number {
    return this.first + this.batches.length;
  }

  /** Adds a batch and returns its sequence number. */
  add(batch: Buffer): number {
    const sequence = this.next;
    this.batches.push(batch);
    this.bytes += batch.length;
    let drop = 0;
    while (
      this.batches.length - drop > this.limit ||
      (this.bytes > this.byteLimit && drop < sequence - this.first)
    ) {
      this.bytes -= (this.batches[drop] as Buffer).length;
      drop++;
    }
    if (drop > 0) this.batches.splice(0, drop);
    this.first += drop;
    return sequence;
  }

  /** What is left of the batches from `sequence` on, with their numbers. */
  from(sequence: number): [number, Buffer][] {
    const start = Math.max(sequence, this.first);
    return this.batches.slice(start - this.first).map((batch, i) => [start + i, batch]);
  }
}
