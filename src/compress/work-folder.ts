import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { FiligreeError } from '../errors.js';
import { ReadableFile } from '../model/model-file.js';
import { readSafetensors } from '../model/safetensors.js';
import type { MatrixReport } from '../native/index.js';
import {
  ioError,
  type PendingTensor,
  writeAtomically,
  writeSafetensors,
  writeText,
} from './safetensors-writer.js';

/** What a run has finished so far, beside the parts themselves. */
export interface RunState {
  /** Hash of the model, the recipe and the calibration tokens: a run continues only what it would have begun. */
  fingerprint: string;
  /** Zeros of each layer's matrices, once an allocation that measures has decided them. */
  allocation: number[][] | null;
  /** Parts that are complete: `vocabulary`, then a layer each. */
  parts: string[];
  reports: MatrixReport[];
}

/**
 * OUT.partial: one safetensors file for each finished part and what was reported of them. Nothing in it loads as a model, and a
 * part counts only once the state names it, so that a run killed at any moment continues from the last whole part.
 */
export class WorkFolder {
  private constructor(
    readonly path: string,
    private readonly out: string,
    readonly state: RunState,
  ) {}

  /**
   * @throws FiligreeError `usage` where something is in the way, `io_error`
   */
  static open(out: string, fingerprint: string, options: { resume: boolean; force: boolean }): WorkFolder {
    const path = `${out}.partial`;
    if (existsSync(out) && !options.force)
      throw new FiligreeError('usage', `${out} exists; --force replaces it once the new model is complete`);
    const statePath = join(path, 'state.json');
    if (existsSync(statePath) && options.resume) {
      let state: RunState;
      try {
        state = JSON.parse(readFileSync(statePath, 'utf8')) as RunState;
      } catch (error) {
        throw new FiligreeError('io_error', `${statePath} is damaged; start over with --force`, {
          cause: error,
        });
      }
      if (state.fingerprint !== fingerprint)
        throw new FiligreeError(
          'usage',
          `${path} holds an interrupted run of another model, recipe or calibration text; repeat its options, or start over with --force`,
        );
      return new WorkFolder(path, out, state);
    }
    if (existsSync(path) && !options.force && !options.resume)
      throw new FiligreeError(
        'usage',
        `${path} holds an interrupted run; --resume continues it, --force starts over`,
      );
    try {
      rmSync(path, { recursive: true, force: true });
      mkdirSync(path, { recursive: true });
    } catch (error) {
      throw ioError('create', path, error);
    }
    const work = new WorkFolder(path, out, { fingerprint, allocation: null, parts: [], reports: [] });
    work.save();
    return work;
  }

  private partPath(part: string): string {
    return join(this.path, `${part}.safetensors`);
  }

  save(): void {
    writeText(join(this.path, 'state.json'), JSON.stringify(this.state));
  }

  add(part: string, tensors: PendingTensor[], reports: MatrixReport[]): void {
    writeSafetensors(this.partPath(part), tensors);
    this.state.parts.push(part);
    this.state.reports.push(...reports);
    this.save();
  }

  /** A finished part's file and its tensors. */
  read(part: string): { path: string; tensors: PendingTensor[] } {
    const path = this.partPath(part);
    const file = ReadableFile.open(path);
    try {
      const { tensors } = readSafetensors(file, 0);
      return {
        path,
        tensors: tensors.map(({ name, dtype, shape, offset, bytes }) => ({
          name,
          dtype: dtype.toUpperCase(),
          shape,
          bytes,
          data: { path, offset },
        })),
      };
    } finally {
      file.close();
    }
  }

  /** Puts the parts together and the result in OUT's place; config.json, without which nothing loads, comes last. */
  finish(files: Map<string, string>): number {
    const staging = join(this.path, 'model');
    try {
      rmSync(staging, { recursive: true, force: true });
      mkdirSync(staging);
    } catch (error) {
      throw ioError('create', staging, error);
    }
    const tensors = this.state.parts.flatMap((part) => this.read(part).tensors);
    writeSafetensors(join(staging, 'model.safetensors'), tensors);
    for (const [name, text] of files)
      writeAtomically(join(staging, name), (write) => write(Buffer.from(text)));
    const bytes = statSync(join(staging, 'model.safetensors')).size;
    try {
      rmSync(this.out, { recursive: true, force: true });
      renameSync(staging, this.out);
      rmSync(this.path, { recursive: true, force: true });
    } catch (error) {
      throw ioError('write', this.out, error);
    }
    return bytes;
  }
}
