import { FiligreeError } from '../errors.js';
import type { ModelManifest, TensorEntry } from '../model/manifest.js';
import type {
  EncodedTensor,
  FloatChoice,
  MatrixReport,
  NativeCompression,
  NativeCompressionOptions,
  NativeLayerOptions,
  RoundingChoice,
} from './addon-types.js';
import { checkIsa } from './isa.js';
import { loadAddon } from './load-addon.js';
import { loadError } from './native-error.js';

export type CompressionOptions = Omit<NativeCompressionOptions, 'threads' | 'isa'> & {
  threads?: number | undefined;
  isa?: string | undefined;
};

/** A model being compressed layer by layer in native code; failures are FiligreeErrors that name the tensor. */
export class Compression {
  private constructor(
    private readonly native: NativeCompression,
    private readonly name: string,
    /** Bytes of memory that a layer takes beside the hidden states. */
    readonly layerBytes: number,
  ) {}

  static async open(manifest: ModelManifest, options: CompressionOptions): Promise<Compression> {
    const addon = loadAddon();
    const isa = options.isa ?? process.env.FILIGREE_ISA ?? 'auto';
    checkIsa(isa, addon.cpuInfo());
    const native = new addon.Compression();
    try {
      const { layerBytes } = await native.open(manifest, { ...options, threads: options.threads ?? 0, isa });
      return new Compression(native, manifest.name, layerBytes);
    } catch (error) {
      await native.close();
      throw loadError(error, manifest.name);
    }
  }

  vocabulary(
    name: string,
    options: { bits: 0 | 4 | 8; group: number; rounding: RoundingChoice; dtype: FloatChoice },
  ): Promise<EncodedTensor[]> {
    return this.explained(this.native.vocabulary(name, options));
  }

  layer(
    options: NativeLayerOptions,
    onProgress: (stage: string, share: number) => void,
  ): Promise<{ reports: MatrixReport[]; tensors: EncodedTensor[] }> {
    return this.explained(this.native.layer(options, onProgress));
  }

  restore(tensors: TensorEntry[], files: string[]): Promise<void> {
    return this.explained(this.native.restore(tensors, files));
  }

  probe(options: NativeLayerOptions): Promise<{ error: number[]; outliers: number[] }> {
    return this.explained(this.native.probe(options));
  }

  finalNorm(): Promise<EncodedTensor[]> {
    return this.explained(this.native.finalNorm());
  }

  perplexity(): Promise<{ before: number; after: number; tokens: number }> {
    return this.explained(this.native.perplexity());
  }

  close(): Promise<void> {
    return this.native.close();
  }

  private async explained<T>(result: Promise<T>): Promise<T> {
    try {
      return await result;
    } catch (error) {
      const explained = loadError(error, this.name);
      if (explained instanceof FiligreeError && explained.code === 'usage')
        throw new FiligreeError('model_invalid', explained.message, { cause: error });
      throw explained;
    }
  }
}
