import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineStats, FinishedInfo, StepInfo } from '../engine/engine.js';
import type { Service } from './service.js';

const LABELS = ['model_name', 'engine'] as const;

/** vLLM's buckets, so that its dashboards' quantiles mean the same. */
const FIRST_TOKEN = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
  2560,
];
const INTER_TOKEN = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const LATENCY = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];
const ITERATION = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/** 1, 2, 5, 10, 20, ... up to the largest request there can be. */
function oneTwoFive(limit: number): number[] {
  const buckets: number[] = [];
  for (let scale = 1; ; scale *= 10)
    for (const step of [1, 2, 5]) {
      if (step * scale > limit) return buckets;
      buckets.push(step * scale);
    }
}

/**
 * The server's metrics under vLLM's names, fed by the engine's events and read from its counters when scraped. Each
 * server has a registry of its own.
 */
export class Metrics {
  readonly registry = new Registry();
  private readonly labels: { model_name: string; engine: string };

  constructor(private readonly service: Service) {
    this.labels = { model_name: service.model.names[0], engine: '0' };
    const { engine } = service;
    this.gauges();
    this.loras();
    this.counters();
    this.histograms();
    this.own();
    const onFinished = this.finished.bind(this);
    const onStep = this.step.bind(this);
    engine.on('finished', onFinished);
    engine.on('step', onStep);
  }

  async text(): Promise<string> {
    return await this.registry.metrics();
  }

  private gauge(name: string, help: string, read: () => number): void {
    const { labels } = this;
    new Gauge({
      name,
      help,
      labelNames: LABELS,
      registers: [this.registry],
      collect() {
        this.set(labels, read());
      },
    });
  }

  /** A counter whose total is kept elsewhere. */
  private counter(name: string, help: string, read: () => number): void {
    const { labels } = this;
    let last = 0;
    const counter = new Counter({
      name,
      help,
      labelNames: LABELS,
      registers: [this.registry],
      collect() {
        const now = read();
        this.inc(labels, Math.max(0, now - last));
        last = now;
      },
    });
    counter.inc(labels, 0);
  }

  private histogram(name: string, help: string, buckets: number[]): Histogram<(typeof LABELS)[number]> {
    const histogram = new Histogram({ name, help, labelNames: LABELS, buckets, registers: [this.registry] });
    histogram.zero(this.labels);
    return histogram;
  }

  private gauges(): void {
    const stats = (pick: (stats: EngineStats) => number) => () => pick(this.service.engine.stats());
    this.gauge(
      'vllm:num_requests_running',
      'Requests in execution.',
      stats((s) => s.running),
    );
    this.gauge(
      'vllm:num_requests_waiting',
      'Requests that wait to be executed.',
      stats((s) => s.waiting),
    );
    for (const name of ['kv', 'gpu'])
      this.gauge(
        `vllm:${name}_cache_usage_perc`,
        'KV-cache use; 1 is full.',
        stats((s) => s.kvUsage),
      );
    const { info } = this.service.engine;
    const config = new Gauge({
      name: 'vllm:cache_config_info',
      help: 'How the KV cache is laid out.',
      labelNames: [...LABELS, 'block_size', 'num_gpu_blocks', 'cache_dtype', 'enable_prefix_caching'],
      registers: [this.registry],
    });
    config.set(
      {
        ...this.labels,
        block_size: String(info.blockSize),
        num_gpu_blocks: String(info.numBlocks),
        cache_dtype: info.kvType,
        enable_prefix_caching: this.service.prefixCache ? 'True' : 'False',
      },
      1,
    );
  }

  /** Which adapters are at work, and when that was so: what a router that knows LoRA reads. */
  private loras(): void {
    const { engine, adapters } = this.service;
    if (!adapters?.size) return;
    new Gauge({
      name: 'vllm:lora_requests_info',
      help: 'Adapters of running and of waiting requests; the value is the time of the scrape.',
      labelNames: ['max_lora', 'running_lora_adapters', 'waiting_lora_adapters'],
      registers: [this.registry],
      collect() {
        const { runningAdapters, waitingAdapters } = engine.stats();
        this.reset();
        this.set(
          {
            max_lora: String(adapters.size),
            running_lora_adapters: runningAdapters.join(','),
            waiting_lora_adapters: waitingAdapters.join(','),
          },
          Date.now() / 1000,
        );
      },
    });
  }

  private counters(): void {
    const stats = (pick: (stats: EngineStats) => number) => () => pick(this.service.engine.stats());
    this.counter(
      'vllm:prompt_tokens_total',
      'Prompt tokens processed.',
      stats((s) => s.promptTokens),
    );
    this.counter(
      'vllm:generation_tokens_total',
      'Tokens generated.',
      stats((s) => s.generationTokens),
    );
    this.counter(
      'vllm:num_preemptions_total',
      'Preemptions.',
      stats((s) => s.preemptions),
    );
    for (const name of ['prefix', 'gpu_prefix']) {
      this.counter(
        `vllm:${name}_cache_queries_total`,
        'Tokens looked up in the prefix cache.',
        stats((s) => s.prefixQueries),
      );
      this.counter(
        `vllm:${name}_cache_hits_total`,
        'Tokens found in the prefix cache.',
        stats((s) => s.prefixHits),
      );
    }
    const { kvEvents } = this.service;
    if (kvEvents !== undefined) {
      this.counter(
        'filigree_kv_event_batches_total',
        'Batches of KV events published.',
        () => kvEvents.published,
      );
      this.counter(
        'filigree_kv_event_batches_unsent_total',
        'Batches of KV events that never left: they can only be had by replay.',
        () => kvEvents.unsent,
      );
    }
    // This engine drafts nothing; dashboards divide by these names.
    for (const name of ['drafts', 'draft_tokens', 'accepted_tokens'])
      this.counter(`vllm:spec_decode_num_${name}_total`, 'Speculative decoding: none here.', () => 0);
  }

  private success!: Counter;
  private firstToken!: Histogram;
  private interToken!: Histogram;
  private perToken!: Histogram;
  private endToEnd!: Histogram;
  private phases!: Record<'queue' | 'inference' | 'prefill' | 'decode', Histogram>;
  private promptTokens!: Histogram;
  private generationTokens!: Histogram;
  private iterationTokens!: Histogram;

  private histograms(): void {
    this.success = new Counter({
      name: 'vllm:request_success_total',
      help: 'Requests finished, by reason.',
      labelNames: [...LABELS, 'finished_reason'],
      registers: [this.registry],
    });
    for (const finished_reason of ['stop', 'length', 'abort', 'error'])
      this.success.inc({ ...this.labels, finished_reason }, 0);
    const lengths = oneTwoFive(this.service.engine.info.maxModelLen);
    this.firstToken = this.histogram(
      'vllm:time_to_first_token_seconds',
      'Arrival to first token.',
      FIRST_TOKEN,
    );
    this.interToken = this.histogram('vllm:inter_token_latency_seconds', 'Token to token.', INTER_TOKEN);
    this.perToken = this.histogram(
      'vllm:request_time_per_output_token_seconds',
      'Mean time of a token after the first, by request.',
      INTER_TOKEN,
    );
    this.endToEnd = this.histogram('vllm:e2e_request_latency_seconds', 'Arrival to last token.', LATENCY);
    const phase = (name: string) =>
      this.histogram(`vllm:request_${name}_time_seconds`, `Time in ${name}.`, LATENCY);
    this.phases = {
      queue: phase('queue'),
      inference: phase('inference'),
      prefill: phase('prefill'),
      decode: phase('decode'),
    };
    this.promptTokens = this.histogram('vllm:request_prompt_tokens', 'Prompt tokens by request.', lengths);
    this.generationTokens = this.histogram(
      'vllm:request_generation_tokens',
      'Generated tokens by request.',
      lengths,
    );
    this.iterationTokens = this.histogram('vllm:iteration_tokens_total', 'Tokens by step.', ITERATION);
  }

  private own(): void {
    const { info } = this.service.engine;
    const bytes = new Gauge({
      name: 'filigree_weight_bytes',
      help: 'Bytes of weights in memory, by format.',
      labelNames: [...LABELS, 'format'],
      registers: [this.registry],
    });
    for (const [format, count] of Object.entries(info.formats)) bytes.set({ ...this.labels, format }, count);
    this.gauge('filigree_sparsity', 'Share of zeros over all matrices.', () => info.sparsity);
    const kernel = new Gauge({
      name: 'filigree_kernel_info',
      help: 'The kernel variant in use.',
      labelNames: [...LABELS, 'isa', 'threads'],
      registers: [this.registry],
    });
    kernel.set({ ...this.labels, isa: info.isa, threads: String(info.threads) }, 1);
    this.gauge(
      'filigree_effective_weight_bandwidth_bytes_per_second',
      'Weight bytes read a second, over the steps since the last scrape that only decoded.',
      () => {
        const { steps, seconds } = this.decoding;
        this.decoding = { steps: 0, seconds: 0 };
        return seconds > 0 ? (steps * info.decodeWeightBytes) / seconds : 0;
      },
    );
    const step = new Histogram({
      name: 'filigree_step_duration_seconds',
      help: 'Duration of a step.',
      labelNames: LABELS,
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers: [this.registry],
    });
    const gap = new Histogram({
      name: 'filigree_step_gap_seconds',
      help: 'From the end of a step to the start of the next: the share of JavaScript.',
      labelNames: LABELS,
      buckets: [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1],
      registers: [this.registry],
    });
    const compute = new Counter({
      name: 'filigree_step_compute_seconds_total',
      help: 'What steps took where they were computed; the rest of their duration, and the gaps, is JavaScript.',
      labelNames: LABELS,
      registers: [this.registry],
    });
    compute.inc(this.labels, 0);
    this.service.engine.on('step', ({ durationMs, computeMs, gapMs, prefillTokens }) => {
      step.observe(this.labels, durationMs / 1000);
      if (gapMs !== null) gap.observe(this.labels, gapMs / 1000);
      if (computeMs !== null) compute.inc(this.labels, computeMs / 1000);
      if (prefillTokens > 0) return;
      this.decoding.steps++;
      this.decoding.seconds += durationMs / 1000;
    });
  }

  private decoding = { steps: 0, seconds: 0 };

  private step({ tokens, timeToFirstTokenMs, interTokenMs }: StepInfo): void {
    this.iterationTokens.observe(this.labels, tokens);
    for (const ms of timeToFirstTokenMs) this.firstToken.observe(this.labels, ms / 1000);
    for (const ms of interTokenMs) this.interToken.observe(this.labels, ms / 1000);
  }

  private finished({ finishReason, promptTokens, outputTokens, timings }: FinishedInfo): void {
    const { labels, phases } = this;
    this.success.inc({ ...labels, finished_reason: finishReason });
    this.promptTokens.observe(labels, promptTokens);
    this.generationTokens.observe(labels, outputTokens);
    const { arrival, scheduled, firstToken, finished } = timings;
    this.endToEnd.observe(labels, (finished - arrival) / 1000);
    if (scheduled === null) return;
    phases.queue.observe(labels, (scheduled - arrival) / 1000);
    phases.inference.observe(labels, (finished - scheduled) / 1000);
    if (firstToken === null) return;
    phases.prefill.observe(labels, (firstToken - scheduled) / 1000);
    phases.decode.observe(labels, (finished - firstToken) / 1000);
    if (outputTokens > 1) this.perToken.observe(labels, (finished - firstToken) / 1000 / (outputTokens - 1));
  }
}
