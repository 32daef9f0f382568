import { afterEach, describe, expect, it } from 'vitest';
import { byteId, type Fixture, type Json, says, serve, user } from './fixture.js';

let fixture: Fixture;
afterEach(() => fixture.close());
const get = async (url: string, headers = {}) => fixture.app.inject({ url, headers });

/** Every name that API.md promises to routers, autoscalers and dashboards. */
const METRICS = [
  'vllm:num_requests_running',
  'vllm:num_requests_waiting',
  'vllm:kv_cache_usage_perc',
  'vllm:gpu_cache_usage_perc',
  'vllm:prompt_tokens_total',
  'vllm:generation_tokens_total',
  'vllm:num_preemptions_total',
  'vllm:prefix_cache_queries_total',
  'vllm:prefix_cache_hits_total',
  'vllm:gpu_prefix_cache_queries_total',
  'vllm:gpu_prefix_cache_hits_total',
  'vllm:spec_decode_num_drafts_total',
  'vllm:spec_decode_num_draft_tokens_total',
  'vllm:spec_decode_num_accepted_tokens_total',
];
const HISTOGRAMS = [
  'vllm:time_to_first_token_seconds',
  'vllm:inter_token_latency_seconds',
  'vllm:request_time_per_output_token_seconds',
  'vllm:e2e_request_latency_seconds',
  'vllm:request_queue_time_seconds',
  'vllm:request_inference_time_seconds',
  'vllm:request_prefill_time_seconds',
  'vllm:request_decode_time_seconds',
  'vllm:request_prompt_tokens',
  'vllm:request_generation_tokens',
  'vllm:iteration_tokens_total',
];

function sample(text: string, name: string, labels: Record<string, string> = {}): number {
  const line = text.split('\n').find((candidate) => {
    if (!candidate.startsWith(`${name}{`)) return false;
    return Object.entries(labels).every(([key, value]) => candidate.includes(`${key}="${value}"`));
  });
  if (line === undefined) throw new Error(`no sample ${name}`);
  return Number(line.slice(line.lastIndexOf(' ') + 1));
}

describe('metrics', () => {
  it('stand under the promised names from the first scrape, labelled', async () => {
    fixture = await serve(says('hello'));
    const { body, headers } = await get('/metrics');
    expect(headers['content-type']).toContain('text/plain');
    const labels = { model_name: 'test-model', engine: '0' };
    for (const name of METRICS) expect([name, sample(body, name, labels)]).toEqual([name, 0]);
    for (const name of HISTOGRAMS) expect([name, sample(body, `${name}_count`, labels)]).toEqual([name, 0]);
    expect(
      sample(body, 'vllm:cache_config_info', { ...labels, block_size: '16', num_gpu_blocks: '512' }),
    ).toBe(1);
    for (const finished_reason of ['stop', 'length', 'abort'])
      expect(sample(body, 'vllm:request_success_total', { ...labels, finished_reason })).toBe(0);
    expect(sample(body, 'filigree_weight_bytes', { format: 'i8' })).toBe(900);
    expect(sample(body, 'filigree_sparsity')).toBe(0.5);
    expect(sample(body, 'filigree_kernel_info', { isa: 'fake' })).toBe(1);
  });

  it('count what happened, once however often they are read', async () => {
    fixture = await serve(says('hello'));
    const { json } = await fixture.post('/v1/chat/completions', { messages: user('a'), max_tokens: 3 });
    await fixture.post('/v1/completions', { prompt: 'abc' });
    await get('/metrics');
    const { body } = await get('/metrics');
    expect(sample(body, 'vllm:generation_tokens_total')).toBe(3 + 6);
    expect(sample(body, 'vllm:prompt_tokens_total')).toBe(json.usage.prompt_tokens + 3);
    expect(sample(body, 'vllm:request_success_total', { finished_reason: 'length' })).toBe(1);
    expect(sample(body, 'vllm:request_success_total', { finished_reason: 'stop' })).toBe(1);
    expect(sample(body, 'vllm:time_to_first_token_seconds_count')).toBe(2);
    expect(sample(body, 'vllm:inter_token_latency_seconds_count')).toBe(2 + 5);
    expect(sample(body, 'vllm:request_generation_tokens_sum')).toBe(9);
    expect(sample(body, 'vllm:num_requests_running')).toBe(0);
  });
});

describe('operation', () => {
  it('tells what is served', async () => {
    fixture = await serve(says('x'));
    const list = (await get('/v1/models')).json();
    expect(list.data.map((m: Json) => m.id)).toEqual(['test-model', 'org/alias']);
    expect(list.data[0]).toMatchObject({ max_model_len: 512, format: 'i8', sparsity: 0.5, object: 'model' });
    expect((await get('/v1/models/org/alias')).json().id).toBe('org/alias');
    expect((await get('/v1/models/org%2Falias')).json().id).toBe('org/alias');
    expect((await get('/version')).json()).toEqual({ version: '0.0.0-test' });
    expect((await get('/load')).json()).toEqual({ server_load: 0 });
    expect((await get('/is_sleeping')).json()).toEqual({ is_sleeping: false });
    expect((await get('/')).json().documentation).toBe('/docs');
  });

  it('publishes OpenAPI 3.1 of every route', async () => {
    fixture = await serve(says('x'));
    const document = (await get('/openapi.json')).json();
    expect(document.openapi).toBe('3.1.0');
    for (const path of [
      '/v1/chat/completions',
      '/v1/completions',
      '/v1/models',
      '/tokenize',
      '/health',
      '/metrics',
    ])
      expect(document.paths).toHaveProperty([path]);
    const body = document.paths['/v1/chat/completions'].post.requestBody.content['application/json'].schema;
    expect(body.properties.temperature).toMatchObject({ type: ['number', 'null'], minimum: 0, maximum: 2 });
    expect((await get('/docs')).statusCode).toBe(200);
  });

  it('is not ready while draining, finishes what runs, and admits nothing', async () => {
    fixture = await serve(says('a longer answer'));
    fixture.runner.stepMs = 5;
    const running = fixture.post('/v1/chat/completions', { messages: user('a') });
    while (fixture.runner.steps < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    const drained = fixture.service.lifecycle.drain(5000);
    expect((await get('/ready')).statusCode).toBe(503);
    expect((await get('/health')).statusCode).toBe(200);
    const refused = await fixture.post('/v1/chat/completions', { messages: user('a') });
    expect([refused.status, refused.json.error.code]).toEqual([503, 'server_draining']);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect((await running).json.choices[0].message.content).toBe('a longer answer');
    expect(await drained).toBe(true);
  });

  it('gives up draining after the timeout and breaks the rest off', async () => {
    fixture = await serve(() => byteId(97), { runner: { maxModelLen: 400 } });
    fixture.runner.stepMs = 5;
    const running = fixture.post('/v1/chat/completions', { messages: user('a') });
    while (fixture.runner.steps < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(await fixture.service.lifecycle.drain(10)).toBe(false);
    await fixture.engine.drain(0);
    const { status, json } = await running;
    expect([status, json.error.code]).toEqual([503, 'server_draining']);
    expect(await fixture.service.lifecycle.drain(1000)).toBe(true);
  });

  it('echoes a request id, and draws one for an unsafe one', async () => {
    fixture = await serve(says('x'));
    expect((await get('/health', { 'x-request-id': 'abc-1' })).headers['x-request-id']).toBe('abc-1');
    const drawn = (await get('/health', { 'x-request-id': 'a b' })).headers['x-request-id'];
    expect(drawn).toMatch(/^[\da-f-]{36}$/);
    expect((await get('/nothing', { 'x-request-id': 'abc-2' })).headers['x-request-id']).toBe('abc-2');
    const body = { messages: user('a'), request_id: 'mine' };
    expect((await fixture.post('/v1/chat/completions', body)).json.id).toBe('chatcmpl-mine');
  });

  it('sends CORS headers only where asked', async () => {
    fixture = await serve(says('x'));
    const origin = 'https://example.org';
    expect((await get('/health', { origin })).headers).not.toHaveProperty('access-control-allow-origin');
    await fixture.close();
    fixture = await serve(says('x'), { server: { cors: [origin] } });
    expect((await get('/health', { origin })).headers['access-control-allow-origin']).toBe(origin);
    const stream = await fixture.post(
      '/v1/chat/completions',
      { messages: user('a'), stream: true },
      { origin },
    );
    expect(stream.headers['access-control-allow-origin']).toBe(origin);
  });
});

describe('tokens', () => {
  it('go from text and conversations to ids and back', async () => {
    fixture = await serve(says('x'));
    const { json } = await fixture.post('/tokenize', { prompt: 'hé', return_token_strs: true });
    expect(json).toEqual({
      count: 3,
      max_model_len: 512,
      tokens: [...Buffer.from('hé')].map(byteId),
      token_strs: ['h', 'bytes:\\xc3', 'bytes:\\xa9'],
    });
    expect((await fixture.post('/detokenize', { tokens: json.tokens })).json).toEqual({ prompt: 'hé' });
    const rendered = (await fixture.post('/apply-template', { messages: user('Hi') })).json.prompt;
    expect(rendered).toBe('<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n');
    const chat = (await fixture.post('/tokenize', { messages: user('Hi') })).json.tokens;
    expect((await fixture.post('/detokenize', { tokens: chat })).json.prompt).toBe(rendered);
  });
});
