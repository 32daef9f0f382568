import { readFileSync } from 'node:fs';
import { FiligreeError } from '../src/errors.js';
import { percentile } from './measure.js';

/** One request against a server, as its client saw it. Times in seconds from the start of the run. */
export interface RequestTrace {
  start: number;
  firstToken: number;
  end: number;
  /** Gaps between arrivals of content, seconds. */
  gaps: number[];
  promptTokens: number;
  tokens: number;
  error: string | null;
}

export interface LoadOptions {
  url: string;
  apiKey?: string;
  model?: string;
  /** Requests in flight at once; with `rate`, the upper bound. */
  concurrency: number;
  /** Requests a second, Poisson arrivals; undefined: as fast as concurrency allows. */
  rate?: number;
  requests: number;
  maxTokens: number;
  prompts: string[];
  /** A request is good when its first token and its mean inter-token time stay within these (seconds). */
  goodTtft: number;
  goodItl: number;
  timeoutSeconds: number;
  onDone?: (done: number) => void;
}

export interface LoadReport {
  url: string;
  model: string;
  requests: number;
  errors: Record<string, number>;
  concurrency: number;
  rate: number | null;
  seconds: number;
  prompt_tokens: number;
  output_tokens: number;
  output_tps: number;
  request_per_s: number;
  goodput_per_s: number;
  /** Mean over requests of the time a token takes after the first. */
  ms_per_token: number;
  ttft_ms: Quantiles;
  itl_ms: Quantiles;
  e2e_ms: Quantiles;
  /** Of the engine's steps meanwhile, where the server's metrics tell (ours do). */
  engine: EngineShare | null;
}

export interface EngineShare {
  steps: number;
  /** Tokens of a step, on average: the batch. */
  tokens_per_step: number;
  /** From one step's start to the next. */
  step_ms: number;
  /** The part of it that was computed natively. */
  compute_ms: number;
  /** The rest, as a fraction: scheduling, delivery, detokenization and HTTP that the next step waited for. */
  js_share: number;
}

export interface Quantiles {
  p50: number;
  p95: number;
  p99: number;
}

const quantiles = (seconds: number[]): Quantiles => ({
  p50: percentile(seconds, 0.5) * 1000,
  p95: percentile(seconds, 0.95) * 1000,
  p99: percentile(seconds, 0.99) * 1000,
});

/** Prompts from a file: JSONL with `prompt` or `text`, or one prompt a line. */
export function readPrompts(path: string): string[] {
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const prompts = lines.map((line, i) => {
    if (!line.startsWith('{')) return line;
    try {
      const row = JSON.parse(line) as { prompt?: unknown; text?: unknown };
      const prompt = row.prompt ?? row.text;
      if (typeof prompt === 'string') return prompt;
    } catch {}
    throw new FiligreeError(
      'usage',
      `${path}:${i + 1}: expected a JSON object with a string "prompt" or "text"`,
    );
  });
  if (prompts.length === 0) throw new FiligreeError('usage', `${path} holds no prompt`);
  return prompts;
}

/**
 * Prompts of about `tokens` tokens of plain English, all different, so that no prefix cache flatters; with a `prefix`,
 * so many tokens stand before each, the same in every `groups`-th prompt: the system prompts of several applications.
 */
export function syntheticPrompts(
  count: number,
  tokens: number,
  prefix: { tokens: number; groups: number } = { tokens: 0, groups: 1 },
): string[] {
  if (prefix.tokens > 0) {
    const beginnings = syntheticPrompts(prefix.groups, prefix.tokens).map((text) => `System: ${text}.`);
    return syntheticPrompts(count, tokens).map((text, i) => `${beginnings[i % prefix.groups]} ${text}`);
  }
  const words =
    'the river town old light stone morning paper garden winter letter road quiet music bread window history small early blue'.split(
      ' ',
    );
  return Array.from({ length: count }, (_, i) => {
    let state = (i + 1) * 2654435761;
    const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0);
    return Array.from({ length: Math.max(1, tokens - 1) }, () => words[next() % words.length]).join(' ');
  });
}

/** The model to ask for: the one named, or the first that the server lists. */
export async function servedModel(
  options: Pick<LoadOptions, 'url' | 'model'>,
  headers: Record<string, string>,
): Promise<string> {
  if (options.model) return options.model;
  const answer = await fetch(new URL('/v1/models', options.url), { headers }).catch((cause) => {
    throw new FiligreeError('io_error', `nothing answers at ${options.url}: start the server first`, {
      cause,
    });
  });
  const body = (await answer.json().catch(() => ({}))) as { data?: { id?: string }[] };
  const id = body.data?.[0]?.id;
  if (!id)
    throw new FiligreeError(
      'io_error',
      `${options.url}/v1/models names no model (HTTP ${answer.status}); pass --model`,
    );
  return id;
}

interface StepTotals {
  steps: number;
  tokens: number;
  wall: number;
  compute: number;
}

/** Totals of our own server's metrics; null where the server has none of these names, or does not answer. */
async function stepTotals(url: string, headers: Record<string, string>): Promise<StepTotals | null> {
  const text = await fetch(new URL('/metrics', url), { headers, signal: AbortSignal.timeout(5000) })
    .then((answer) => (answer.ok ? answer.text() : ''))
    .catch(() => '');
  const value = (name: string) => Number(new RegExp(`^${name}{[^}]*} (\\S+)$`, 'm').exec(text)?.[1] ?? 'NaN');
  const totals = {
    steps: value('filigree_step_duration_seconds_count'),
    tokens: value('vllm:iteration_tokens_total_sum'),
    wall: value('filigree_step_duration_seconds_sum') + value('filigree_step_gap_seconds_sum'),
    compute: value('filigree_step_compute_seconds_total'),
  };
  return Object.values(totals).every(Number.isFinite) ? totals : null;
}

function engineShare(before: StepTotals | null, after: StepTotals | null): EngineShare | null {
  if (before === null || after === null || after.steps === before.steps) return null;
  const steps = after.steps - before.steps;
  const wall = after.wall - before.wall;
  const compute = after.compute - before.compute;
  return {
    steps,
    tokens_per_step: (after.tokens - before.tokens) / steps,
    step_ms: (wall / steps) * 1000,
    compute_ms: (compute / steps) * 1000,
    js_share: 1 - compute / wall,
  };
}

async function oneRequest(
  options: LoadOptions,
  model: string,
  headers: Record<string, string>,
  prompt: string,
  clock: () => number,
): Promise<RequestTrace> {
  const trace: RequestTrace = {
    start: clock(),
    firstToken: Number.NaN,
    end: 0,
    gaps: [],
    promptTokens: 0,
    tokens: 0,
    error: null,
  };
  try {
    const answer = await fetch(new URL('/v1/completions', options.url), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify({
        model,
        prompt,
        max_tokens: options.maxTokens,
        temperature: 0,
        ignore_eos: true,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: AbortSignal.timeout(options.timeoutSeconds * 1000),
    });
    if (!answer.ok || !answer.body) throw new Error(`HTTP ${answer.status}`);
    let chunks = 0;
    let complete = false;
    let last = Number.NaN;
    let pending = '';
    const decoder = new TextDecoder();
    for await (const bytes of answer.body) {
      pending += decoder.decode(bytes as Uint8Array, { stream: true });
      for (let end = pending.indexOf('\n\n'); end >= 0; end = pending.indexOf('\n\n')) {
        const event = pending.slice(0, end);
        pending = pending.slice(end + 2);
        if (event === 'data: [DONE]') complete = true;
        if (!event.startsWith('data: ') || complete) continue;
        const data = JSON.parse(event.slice(6)) as {
          choices?: { text?: string }[];
          usage?: { prompt_tokens: number; completion_tokens: number } | null;
          error?: { message: string };
        };
        if (data.error) throw new Error(data.error.message);
        if (data.usage) {
          trace.promptTokens = data.usage.prompt_tokens;
          trace.tokens = data.usage.completion_tokens;
        }
        if (!data.choices?.[0]?.text) continue;
        const now = clock();
        if (chunks++ === 0) trace.firstToken = now;
        else trace.gaps.push(now - last);
        last = now;
      }
    }
    if (trace.tokens === 0) trace.tokens = chunks;
    if (chunks === 0) trace.error = 'no content';
    else if (!complete) trace.error = 'the stream broke off';
  } catch (error) {
    trace.error = error instanceof Error ? error.message : String(error);
  }
  trace.end = clock();
  return trace;
}

/** Sends the load and reports what its clients saw. Uses `/v1/completions` with streaming, which ours and all peers have. */
export async function runLoad(options: LoadOptions): Promise<LoadReport> {
  const headers: Record<string, string> = options.apiKey ? { authorization: `Bearer ${options.apiKey}` } : {};
  const model = await servedModel(options, headers);
  const before = await stepTotals(options.url, headers);
  const began = performance.now();
  const clock = () => (performance.now() - began) / 1000;
  const traces: RequestTrace[] = [];
  let issued = 0;
  let nextArrival = 0;
  const client = async () => {
    while (issued < options.requests) {
      const index = issued++;
      if (options.rate) {
        nextArrival += -Math.log(1 - Math.random()) / options.rate;
        const wait = nextArrival - clock();
        if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      }
      traces.push(
        await oneRequest(options, model, headers, options.prompts[index % options.prompts.length]!, clock),
      );
      options.onDone?.(traces.length);
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, client));
  const seconds = clock();
  const engine = engineShare(before, await stepTotals(options.url, headers));
  const good = traces.filter((t) => t.error === null);
  const errors: Record<string, number> = {};
  for (const { error } of traces) if (error !== null) errors[error] = (errors[error] ?? 0) + 1;
  const tokens = good.reduce((sum, t) => sum + t.tokens, 0);
  const meanItl = (t: RequestTrace) => (t.tokens > 1 ? (t.end - t.firstToken) / (t.tokens - 1) : 0);
  const within = good.filter(
    (t) => t.firstToken - t.start <= options.goodTtft && meanItl(t) <= options.goodItl,
  ).length;
  return {
    url: options.url,
    model,
    requests: traces.length,
    errors,
    concurrency: options.concurrency,
    rate: options.rate ?? null,
    seconds,
    prompt_tokens: good.reduce((sum, t) => sum + t.promptTokens, 0),
    output_tokens: tokens,
    output_tps: tokens / seconds,
    request_per_s: good.length / seconds,
    goodput_per_s: within / seconds,
    ms_per_token: good.reduce((sum, t) => sum + (1000 * meanItl(t)) / good.length, 0),
    ttft_ms: quantiles(good.map((t) => t.firstToken - t.start)),
    itl_ms: quantiles(good.flatMap((t) => t.gaps)),
    e2e_ms: quantiles(good.map((t) => t.end - t.start)),
    engine,
  };
}
