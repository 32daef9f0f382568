import type { Engine } from '../engine/engine.js';
import { GREEDY } from '../engine/model-runner.js';
import { FiligreeError } from '../errors.js';
import { type Call, type Exchange, envelope } from './exchange.js';
import { readPrompts } from './prompt.js';
import type { EmbeddingBody } from './schemas/embeddings.js';
import { resolveName, type Service, serviceFor } from './service.js';

type Generation = ReturnType<Engine['submit']>;

/** The first `dimensions` numbers, as a unit vector unless `normalize` is off. */
function finished(state: Float32Array, dimensions: number, normalize: boolean): Float32Array {
  const vector = state.slice(0, dimensions);
  if (!normalize) return vector;
  let squares = 0;
  for (const x of vector) squares += x * x;
  const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0;
  return vector.map((x) => x * scale);
}

/** Little-endian 32-bit floats, as OpenAI's clients read them. */
function base64(vector: Float32Array): string {
  const bytes = Buffer.alloc(vector.length * 4);
  vector.forEach((x, i) => {
    bytes.writeFloatLE(x, i * 4);
  });
  return bytes.toString('base64');
}

/** @throws FiligreeError where the engine failed or broke the request off */
async function pooledState(generation: Generation): Promise<Float32Array> {
  let state: Float32Array | null = null;
  for await (const event of generation) {
    if (event.type === 'pooled') state = event.state;
    if (event.type !== 'finish') continue;
    if (event.error !== null) throw event.error;
    if (state !== null && event.finishReason !== 'abort') return state;
  }
  throw new FiligreeError('server_draining', 'The server broke the request off: it is shutting down.');
}

/**
 * Answers `/v1/embeddings`: the prompt's final hidden states, pooled. Prompts go to the engine a window at a time, so
 * that a batch of thousands neither overflows the queue nor shuts others out.
 * @throws FiligreeError
 */
export async function startEmbedding(shared: Service, body: EmbeddingBody, call: Call): Promise<Exchange> {
  const service = serviceFor(shared, body.model);
  const { engine } = service;
  const model = resolveName(service, body.model);
  const { hiddenSize } = engine.info;
  const dimensions = body.dimensions ?? hiddenSize;
  if (dimensions > hiddenSize)
    throw new FiligreeError(
      'invalid_value',
      `'dimensions' is ${dimensions}, more than the ${hiddenSize} of this model's hidden state`,
      { param: 'dimensions' },
    );
  engine.assertAccepts();
  const prompts = await readPrompts(service, body.input, 'input', {
    addSpecial: body.add_special_tokens ?? true,
    truncate: body.truncate_prompt_tokens,
  });
  const limit = engine.info.maxModelLen;
  prompts.forEach(({ ids, param }) => {
    if (ids.length <= limit) return;
    throw new FiligreeError(
      'context_length_exceeded',
      `This model's maximum context length is ${limit} tokens, but '${param}' has ${ids.length}. Shorten it.`,
      { param },
    );
  });
  const { id } = envelope(service, 'embd', null, model);
  const running = new Set<Generation>();
  let cancelled = false;

  const submit = (i: number): Generation =>
    engine.submit({
      id: `${id}-${i}`,
      prompt: Int32Array.from((prompts[i] as (typeof prompts)[0]).ids),
      sampling: { ...GREEDY, pooling: body.pooling ?? 'mean' },
      maxTokens: 0,
      stopTokenIds: [],
      ...(typeof body.priority === 'number' && { priority: body.priority }),
      ...(service.adapter !== undefined && { adapter: service.adapter }),
      arrival: call.arrival,
    });

  async function states(): Promise<Float32Array[]> {
    const results: Float32Array[] = new Array(prompts.length);
    let next = 0;
    const worker = async () => {
      while (next < prompts.length && !cancelled) {
        const i = next++;
        const generation = submit(i);
        running.add(generation);
        try {
          results[i] = await pooledState(generation);
        } finally {
          running.delete(generation);
        }
      }
    };
    try {
      await Promise.all(Array.from({ length: Math.min(engine.maxNumSeqs, prompts.length) }, worker));
    } catch (error) {
      cancel();
      throw error;
    }
    return results;
  }

  function cancel(): void {
    cancelled = true;
    for (const generation of running) generation.cancel();
  }

  async function response(): Promise<object> {
    const vectors = await states();
    const tokens = prompts.reduce((sum, prompt) => sum + prompt.ids.length, 0);
    return {
      object: 'list',
      data: vectors.map((state, index) => {
        const vector = finished(state, dimensions, body.normalize ?? true);
        const embedding = body.encoding_format === 'base64' ? base64(vector) : Array.from(vector);
        return { object: 'embedding', index, embedding };
      }),
      model,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
    };
  }

  async function* chunks(): AsyncGenerator<object> {
    yield await response();
  }
  return { id, chunks, response, cancel };
}
