import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline/promises';
import { Engine } from '../engine/engine.js';
import { GREEDY } from '../engine/model-runner.js';
import { TextBatch, type TextResult } from '../engine/text-generation.js';
import { FiligreeError } from '../errors.js';
import type { ChatMessage } from '../tokenizer/index.js';
import { type LoadedModel, loadModel } from './load.js';
import type { ModelOptions } from './options.js';

export interface RunOptions extends ModelOptions {
  system?: string;
  maxTokens?: number;
  temperature?: number;
  topP?: number;
  seed?: number;
  json?: boolean;
}

interface Answer {
  text: string;
  result: TextResult;
}

const BATCHED_TOKENS = 512;
const HELP = `/help   this text
/reset  forget the conversation
/exit   leave (also Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves.
`;

/** One word after `run` is the model; something with spaces is what to say to the default one. */
export function splitArguments(first: string | undefined, second: string | undefined) {
  if (first !== undefined && second === undefined && /\s/.test(first))
    return { model: undefined, prompt: first };
  return { model: first, prompt: second };
}

async function readStdin(): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts).toString('utf8').trim();
}

/** One conversation with a model in this process. */
class Conversation {
  readonly messages: ChatMessage[] = [];
  private current: TextBatch | null = null;

  constructor(
    private readonly engine: Engine,
    private readonly loaded: LoadedModel,
    private readonly options: RunOptions,
  ) {
    this.reset();
  }

  reset(): void {
    this.messages.length = 0;
    if (this.options.system) this.messages.push({ role: 'system', content: this.options.system });
  }

  /** Stops the answer under way. @returns whether there was one */
  stop(): boolean {
    this.current?.cancel();
    return this.current !== null;
  }

  async say(text: string, show: (text: string) => void): Promise<Answer> {
    const { engine, options } = this;
    const { template, tokenizer, eosTokenIds } = this.loaded;
    const drawn = this.loaded.manifest.generation;
    this.messages.push({ role: 'user', content: text });
    const ids =
      template === null
        ? tokenizer.encode(text)
        : template.encode(this.messages, { addGenerationPrompt: true });
    const room = engine.info.maxModelLen - ids.length;
    if (room < 1)
      throw new FiligreeError(
        'context_length_exceeded',
        `The conversation has ${ids.length} tokens and the model takes ${engine.info.maxModelLen}. Begin anew with /reset.`,
      );
    const seed = options.seed === undefined ? randomBytes(8).readBigUInt64LE() : BigInt(options.seed);
    const batch = new TextBatch(
      engine,
      tokenizer,
      [
        {
          id: `run-${this.messages.length}`,
          prompt: Int32Array.from(ids),
          sampling: {
            ...GREEDY,
            ...drawn,
            temperature: options.temperature ?? drawn.temperature ?? 0.7,
            topP: options.topP ?? drawn.topP ?? 0.95,
            seed: BigInt.asUintN(64, seed),
          },
          maxTokens: Math.min(options.maxTokens ?? room, room),
          stopTokenIds: eosTokenIds,
          stop: [],
          includeStop: false,
          skipSpecial: true,
          continuation: template === null,
        },
      ],
      1,
    );
    this.current = batch;
    let answer = '';
    try {
      for await (const { delta } of batch.read()) {
        if (delta === null) continue;
        answer += delta.text;
        show(delta.text);
      }
    } finally {
      this.current = null;
    }
    this.messages.push({ role: 'assistant', content: answer });
    return { text: answer, result: batch.generations[0]?.result as TextResult };
  }
}

/** What `--json` prints, and what a terminal shows in one line. */
function report({ text, result }: Answer) {
  const { timings, promptTokens, outputTokens, cachedTokens } = result;
  const first = timings.firstToken ?? timings.finished;
  const rate = (tokens: number, ms: number) =>
    ms > 0 && tokens > 0 ? Math.round((tokens / ms) * 10_000) / 10 : null;
  return {
    text,
    finish_reason: result.finishReason,
    usage: {
      prompt_tokens: promptTokens,
      completion_tokens: outputTokens,
      total_tokens: promptTokens + outputTokens,
      prompt_tokens_details: { cached_tokens: cachedTokens },
    },
    timings: {
      ttft_ms: Math.round((first - timings.arrival) * 10) / 10,
      decode_tps: rate(outputTokens - 1, timings.finished - first),
      prefill_tps: rate(promptTokens - cachedTokens, first - (timings.scheduled ?? timings.arrival)),
    },
  };
}

async function chat(conversation: Conversation, name: string): Promise<void> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' });
  terminal.on('SIGINT', () => {
    if (!conversation.stop()) terminal.close();
  });
  process.stdout.write(`${name}. /help for help.\n`);
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    if (text === '/exit' || text === '/quit') break;
    if (text === '/help') process.stdout.write(HELP);
    else if (text === '/reset') conversation.reset();
    else if (text.startsWith('/')) process.stdout.write(`${text} is not known. ${HELP}`);
    else if (text !== '') {
      try {
        const answer = await conversation.say(text, (piece) => process.stdout.write(piece));
        const { timings } = report(answer);
        const rate = timings.decode_tps === null ? '' : `, ${timings.decode_tps} tokens/s`;
        process.stdout.write(`\n\x1b[2m${timings.ttft_ms} ms to the first token${rate}\x1b[0m\n`);
      } catch (error) {
        if (!(error instanceof FiligreeError)) throw error;
        process.stdout.write(`${error.message}\n`);
      }
    }
    terminal.prompt();
  }
  terminal.close();
}

/** `filigree run`: one answer, or a conversation on a terminal. */
export async function runCommand(
  first: string | undefined,
  second: string | undefined,
  options: RunOptions,
): Promise<void> {
  const { model, prompt } = splitArguments(first, second);
  // Not beside a PROMPT: a parent that leaves its end of a pipe open would be waited for.
  const text = prompt ?? (process.stdin.isTTY ? '' : await readStdin());
  if (text === '' && !process.stdin.isTTY)
    throw new FiligreeError(
      'usage',
      'there is nothing to say: give a PROMPT, pipe one in, or run on a terminal',
    );
  if (text === '' && options.json)
    throw new FiligreeError('usage', '--json answers one prompt: give a PROMPT or pipe one in');

  const size = { maxNumSeqs: 1, maxNumBatchedTokens: BATCHED_TOKENS };
  const loaded = await loadModel(model, options, size);
  const engine = new Engine(loaded.runner, {
    ...size,
    prefixCache: true,
    queueLimit: 1,
    queueTokenLimit: 2 ** 31,
  });
  try {
    const conversation = new Conversation(engine, loaded, options);
    if (text === '') return await chat(conversation, loaded.manifest.name);
    process.once('SIGINT', () => conversation.stop());
    const answer = await conversation.say(text, (piece) => {
      if (!options.json) process.stdout.write(piece);
    });
    process.stdout.write(options.json ? `${JSON.stringify(report(answer))}\n` : '\n');
  } finally {
    await engine.close();
  }
}
