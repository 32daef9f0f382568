import type {
  ModelRunner,
  RunnerInfo,
  SamplingParams,
  StepOutput,
  StepRecord,
} from '../engine/model-runner.js';
import type { NativeEngine, NativeStepResult } from './addon-types.js';
import { stepError } from './native-error.js';
import { flatten, unflatten } from './step-codec.js';

/** The engine of the native addon behind the scheduler's interface. */
export class NativeRunner implements ModelRunner {
  /** Slots whose request asked for log-probabilities. */
  private readonly withLogprobs = new Set<number>();
  private closing: Promise<void> | null = null;
  computeMs = 0;
  /** Entries of the last step that the one before had begun. */
  ahead = 0;

  constructor(
    private readonly engine: NativeEngine,
    readonly info: RunnerInfo,
  ) {}

  openSlot(
    slot: number,
    params: SamplingParams,
    prompt: Int32Array,
    output: Int32Array,
    adapter?: string,
  ): void {
    const index = adapter === undefined ? -1 : (this.info.adapters ?? []).indexOf(adapter);
    if (adapter !== undefined && index < 0) throw new RangeError(`there is no adapter ${adapter}`);
    this.engine.openSlot(slot, params, prompt, output, index);
    if (params.logprobs >= 0) this.withLogprobs.add(slot);
    else this.withLogprobs.delete(slot);
  }

  closeSlot(slot: number): void {
    // Requests that end because the engine did still close their slots.
    if (this.closing === null) this.engine.closeSlot(slot);
    this.withLogprobs.delete(slot);
  }

  holdBack(): void {
    if (this.closing === null) this.engine.hold();
  }

  async step(record: StepRecord): Promise<StepOutput[]> {
    return unflatten(
      record,
      await this.run(record, false),
      (slot) => this.withLogprobs.has(slot),
      this.info.hiddenSize,
    );
  }

  /** As step(), with the raw logits of every sampled entry, [sampled][vocabSize]: for tests and evaluation. */
  async stepWithLogits(record: StepRecord): Promise<{ outputs: StepOutput[]; logits: Float32Array }> {
    const result = await this.run(record, true);
    return {
      outputs: unflatten(record, result, (slot) => this.withLogprobs.has(slot), this.info.hiddenSize),
      logits: result.logits,
    };
  }

  close(): Promise<void> {
    this.closing ??= this.engine.close();
    return this.closing;
  }

  private async run(record: StepRecord, keepLogits: boolean): Promise<NativeStepResult> {
    const { entries, tokens, blocks, copies } = flatten(record);
    try {
      const result = await this.engine.step(entries, tokens, blocks, copies, keepLogits);
      this.computeMs = result.computeMs;
      this.ahead = result.ahead;
      return result;
    } catch (error) {
      throw stepError(error);
    }
  }
}
