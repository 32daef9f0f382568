import { authorization } from './dom.js';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface Progress {
  text: string;
  tokens: number;
  /** Tokens a second since the first. */
  speed: number | null;
  firstTokenMs: number | null;
}

interface Chunk {
  choices: { delta: { content?: string | null }; token_ids?: number[] }[];
  error?: { message: string };
}

/** Streams a chat completion. Rejects with the server's message; an abort ends it quietly. */
export async function chat(
  body: object,
  signal: AbortSignal,
  onProgress: (progress: Progress) => void,
): Promise<Progress> {
  const started = performance.now();
  const progress: Progress = { text: '', tokens: 0, speed: null, firstTokenMs: null };
  try {
    const response = await fetch('v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...authorization() },
      body: JSON.stringify({ ...body, stream: true, return_token_ids: true }),
      signal,
    });
    if (!response.ok || response.body === null) {
      const answer = (await response.json().catch(() => null)) as Chunk | null;
      throw new Error(answer?.error?.message ?? `The server answered ${response.status}.`);
    }
    let first = 0;
    for await (const data of events(response.body)) {
      if (data === '[DONE]') break;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      const count = choice?.token_ids?.length ?? 0;
      progress.text += choice?.delta.content ?? '';
      if (count === 0) continue;
      const now = performance.now();
      if (progress.tokens === 0) {
        progress.firstTokenMs = now - started;
        first = now;
      } else progress.speed = ((progress.tokens + count - 1) / (now - first)) * 1000;
      progress.tokens += count;
      onProgress(progress);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  return progress;
}

/** The data of server-sent events. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body
    .pipeThrough(new TextDecoderStream() as never)
    .getReader() as ReadableStreamDefaultReader<string>;
  let held = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split('\n\n');
    held = parts.pop() ?? '';
    for (const part of parts) if (part.startsWith('data: ')) yield part.slice(6);
  }
}
