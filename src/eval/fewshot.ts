import { FiligreeError } from '../errors.js';
import { PythonRandom } from './python-random.js';

/** lm-evaluation-harness's seed for few-shot examples. */
const SEED = 1234;

/**
 * Draws labelled examples for one evaluated item after another, in the order of the evaluation: as the harness does,
 * with one random stream over the whole task.
 */
export class FewShotSampler<T> {
  private readonly random = new PythonRandom(SEED);

  /**
   * @param pool examples to draw from
   * @param spare draw one more, so that an item need not be its own example: where the pool is the evaluated data, and, as the
   * harness does, for every dataset without a test split
   */
  constructor(
    private readonly task: string,
    private readonly pool: readonly T[],
    private readonly spare: boolean,
  ) {}

  /** @throws FiligreeError `usage` where the pool is too small */
  draw(count: number, item: T): T[] {
    if (count === 0) return [];
    const wanted = this.spare ? count + 1 : count;
    if (wanted > this.pool.length) throw tooFew(this.task, count, this.pool.length);
    const drawn = this.random.sample(this.pool.length, wanted).map((i) => this.pool[i] as T);
    return drawn.filter((example) => example !== item).slice(0, count);
  }
}

export function tooFew(task: string, wanted: number, there: number): FiligreeError {
  return new FiligreeError(
    'usage',
    `task ${task}: --fewshot ${wanted} needs more examples than the ${there} there are`,
  );
}
