import { byId, percent } from './dom.js';

const PERIOD_MS = 1000;
let before: { at: number; tokens: number } | null = null;

function value(text: string, name: string): number | null {
  const match = new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(text);
  return match ? Number(match[1]) : null;
}

function show(id: string, reading: number, text: string): void {
  byId<HTMLMeterElement>(`gauge-${id}`).value = reading;
  byId(`text-${id}`).textContent = text;
}

async function read(): Promise<void> {
  const response = await fetch('metrics');
  if (!response.ok) return;
  const text = await response.text();
  const kv = value(text, 'vllm:kv_cache_usage_perc') ?? 0;
  const running = value(text, 'vllm:num_requests_running') ?? 0;
  const waiting = value(text, 'vllm:num_requests_waiting') ?? 0;
  const tokens = value(text, 'vllm:generation_tokens_total') ?? 0;
  const now = performance.now();
  show('kv', kv, percent(kv));
  show('running', running, String(running));
  show('waiting', waiting, String(waiting));
  if (before !== null) {
    const speed = ((tokens - before.tokens) / (now - before.at)) * 1000;
    byId('text-speed').textContent = `${speed.toFixed(0)} tok/s`;
  }
  before = { at: now, tokens };
}

/** Reads the server's gauges every second while the page is seen. */
export function watchGauges(mostRunning: number): void {
  byId<HTMLMeterElement>('gauge-running').max = mostRunning;
  const tick = async () => {
    if (!document.hidden) await read().catch(() => {});
    setTimeout(tick, PERIOD_MS);
  };
  void tick();
}
