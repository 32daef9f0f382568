import type { TopLogprobs } from '../engine/model-runner.js';
import type { PromptEvent } from '../engine/request.js';
import type { SampledToken } from '../engine/text-generation.js';
import type { Tokenizer } from '../tokenizer/index.js';

/** JSON knows no infinity; an impossible token gets what vLLM gives it. */
const LOWEST = -9999;
const finite = (logprob: number): number => (Number.isFinite(logprob) ? Math.max(logprob, LOWEST) : LOWEST);

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** A token as text; bytes that are no UTF-8 by themselves as `bytes:\xe2\x80`, OpenAI's spelling. */
export function tokenString(tokenizer: Tokenizer, id: number): string {
  const bytes = tokenizer.tokenBytes(id);
  try {
    return utf8.decode(bytes);
  } catch {
    return `bytes:${Array.from(bytes, (b) => `\\x${b.toString(16).padStart(2, '0')}`).join('')}`;
  }
}

function entry(tokenizer: Tokenizer, id: number, logprob: number) {
  return {
    token: tokenString(tokenizer, id),
    logprob: finite(logprob),
    bytes: [...tokenizer.tokenBytes(id)],
  };
}

/** `choices[].logprobs.content` of a chat completion. */
export function chatLogprobs(tokenizer: Tokenizer, tokens: readonly SampledToken[], top: number) {
  return tokens.map((token) => ({
    ...entry(tokenizer, token.id, token.logprob),
    top_logprobs: token.top
      ? Array.from(token.top.ids.subarray(0, top), (id, i) =>
          entry(tokenizer, id, (token.top as TopLogprobs).logprobs[i] as number),
        )
      : [],
  }));
}

/** The most likely tokens by their text, the token itself among them. Where two spell the same, the likelier counts. */
function topMap(
  tokenizer: Tokenizer,
  id: number,
  logprob: number,
  ids: ArrayLike<number>,
  logprobs: ArrayLike<number>,
): Record<string, number> {
  const map: Record<string, number> = {};
  for (let i = 0; i < ids.length; i++)
    map[tokenString(tokenizer, ids[i] as number)] ??= finite(logprobs[i] as number);
  map[tokenString(tokenizer, id)] ??= finite(logprob);
  return map;
}

export interface CompletionLogprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

/**
 * Logprobs of a text completion, written piece by piece. Offsets count characters (code points) of the choice's text
 * before the token; a token that shows no text takes none.
 */
export class CompletionLogprobWriter {
  private offset = 0;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly top: number,
    private readonly skipSpecial: boolean,
  ) {}

  /** The prompt's part, for `echo`: nothing predicts the first token. */
  prompt(ids: Int32Array, event: PromptEvent): CompletionLogprobs {
    const out: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    ids.forEach((id, i) => {
      if (i === 0) {
        this.add(out, id, null, null);
        return;
      }
      const row = (i - 1) * event.k;
      const logprob = event.logprobs[i - 1] as number;
      const ids = event.topIds.subarray(row, row + event.k);
      this.add(out, id, logprob, topMap(this.tokenizer, id, logprob, ids, event.topLogprobs.subarray(row)));
    });
    return out;
  }

  answer(tokens: readonly SampledToken[]): CompletionLogprobs {
    const out: CompletionLogprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const { id, logprob, top } of tokens) {
      const ids = top ? top.ids.subarray(0, this.top) : [];
      this.add(out, id, logprob, topMap(this.tokenizer, id, logprob, ids, top?.logprobs ?? []));
    }
    return out;
  }

  private add(
    out: CompletionLogprobs,
    id: number,
    logprob: number | null,
    top: Record<string, number> | null,
  ): void {
    out.tokens.push(tokenString(this.tokenizer, id));
    out.token_logprobs.push(logprob === null ? null : finite(logprob));
    out.top_logprobs.push(top);
    out.text_offset.push(this.offset);
    if (this.skipSpecial && this.tokenizer.isSpecial(id)) return;
    // Characters begin at every byte that does not continue one.
    for (const byte of this.tokenizer.tokenBytes(id)) if ((byte & 0xc0) !== 0x80) this.offset++;
  }
}

export function appendLogprobs(to: CompletionLogprobs | null, more: CompletionLogprobs): CompletionLogprobs {
  if (to === null) return more;
  to.tokens.push(...more.tokens);
  to.token_logprobs.push(...more.token_logprobs);
  to.top_logprobs.push(...more.top_logprobs);
  to.text_offset.push(...more.text_offset);
  return to;
}

/** vLLM's `prompt_logprobs`: for each position the tokens by id, null for the first. */
export function promptLogprobs(tokenizer: Tokenizer, prompt: Int32Array, event: PromptEvent) {
  return Array.from(prompt, (id, i) => {
    if (i === 0) return null;
    const row = (i - 1) * event.k;
    const entries: Record<string, { logprob: number; rank: number | null; decoded_token: string }> = {};
    for (let j = 0; j < event.k; j++) {
      const topId = event.topIds[row + j] as number;
      const logprob = finite(event.topLogprobs[row + j] as number);
      entries[topId] = { logprob, rank: j + 1, decoded_token: tokenString(tokenizer, topId) };
    }
    const logprob = finite(event.logprobs[i - 1] as number);
    entries[id] ??= { logprob, rank: null, decoded_token: tokenString(tokenizer, id) };
    return entries;
  });
}
