import { Template } from '@huggingface/jinja';
import { FiligreeError } from '../errors.js';
import { ForgeryGuard } from './forgery-guard.js';
import type { Tokenizer } from './tokenizer.js';

export interface ChatMessage {
  role: string;
  content?: unknown;
  [field: string]: unknown;
}

export interface RenderOptions {
  /** End with the beginning of the assistant's turn. */
  addGenerationPrompt?: boolean;
  tools?: readonly unknown[];
  /** Further variables of the template. */
  kwargs?: Record<string, unknown>;
  /** Cut the text off right after the last message's content, so that the model goes on writing it. */
  continueFinalMessage?: boolean;
}

export interface TemplateOptions {
  /** Control tokens that messages spell become control tokens, as in the reference tokenization. Default false. */
  trustSpecial?: boolean;
}

/** Names that the template language declares itself, and those that only the options set. */
const RESERVED = new Set(
  'true false none True False None range raise_exception strftime_now messages tools add_generation_prompt'.split(
    ' ',
  ),
);

/** Stands at the end of the last message while rendering, to find where it ended. */
const END_OF_MESSAGE = '\u{10fffd}end\u{10fffd}';

/**
 * A model's chat template. What the template writes as control tokens becomes control tokens; what a message spells
 * stays text (see forgery-guard.ts).
 */
export class ChatTemplate {
  private readonly guard: ForgeryGuard;
  /** What `tools` is without tools: `none`, but for templates made for tools alone, which iterate over it regardless. */
  private readonly noTools: null | [];

  /** @throws FiligreeError `template_invalid` */
  static create(template: string, tokenizer: Tokenizer, options: TemplateOptions = {}): ChatTemplate {
    try {
      return new ChatTemplate(new Template(template), tokenizer, options);
    } catch (error) {
      const reason = (error as Error).message;
      throw new FiligreeError('template_invalid', `The chat template cannot be parsed: ${reason}`, {
        cause: error,
      });
    }
  }

  private constructor(
    private readonly template: Template,
    private readonly tokenizer: Tokenizer,
    private readonly options: TemplateOptions,
  ) {
    this.guard = new ForgeryGuard(tokenizer.controlTexts);
    this.noTools = this.takes(null) || !this.takes([]) ? null : [];
  }

  /**
   * The conversation as text.
   * @throws FiligreeError `template_error`, with the template's own message where it raised one
   */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.run({ messages, tools: options.tools, kwargs: options.kwargs ?? {} }, options);
  }

  /** The conversation as ids. A BOS is there once: from the template, or else where the tokenizer wants one. */
  encode(messages: readonly ChatMessage[], options: RenderOptions = {}): number[] {
    return this.withBos(this.tokenizer.encodeSections(this.sections(messages, options)));
  }

  /** As `encode`, letting the event loop turn while a long conversation is encoded. */
  async encodeAsync(messages: readonly ChatMessage[], options: RenderOptions = {}): Promise<number[]> {
    return this.withBos(await this.tokenizer.encodeSectionsAsync(this.sections(messages, options)));
  }

  private sections(messages: readonly ChatMessage[], options: RenderOptions): (string | number)[] {
    const { guard, tokenizer } = this;
    const input = { messages, tools: options.tools, kwargs: options.kwargs ?? {} };
    if (this.options.trustSpecial) return tokenizer.split(this.run(input, options), true);
    const marks = guard.chooseMarks(input);
    if (marks === null) throw templateError('The messages use every private-use character there is.');
    const { text, seams } = guard.unmark(this.run(guard.mark(input, marks[0]), options), marks[0]);
    const sections = tokenizer.split(text, true, seams);
    if (guard.suspicious(input)) {
      const disguised = this.run(guard.disguise(input, marks[1]), options);
      const expected = this.controls(tokenizer.split(disguised, true));
      if (this.controls(sections).join() !== expected.join()) {
        throw templateError(
          'A message spells a control token in a way that this chat template cannot keep apart.',
        );
      }
    }
    return sections;
  }

  private run(
    input: {
      messages: readonly ChatMessage[];
      tools: readonly unknown[] | undefined;
      kwargs: Record<string, unknown>;
    },
    options: RenderOptions,
  ): string {
    const { tokenizer } = this;
    const last = input.messages.at(-1);
    const cut = options.continueFinalMessage === true;
    if (cut && options.addGenerationPrompt === true) {
      throw templateError('continue_final_message and add_generation_prompt exclude each other.');
    }
    if (cut && typeof last?.content !== 'string') {
      throw templateError('continue_final_message needs a last message whose content is text.');
    }
    const messages = cut
      ? [...input.messages.slice(0, -1), { ...last, content: `${last?.content}${END_OF_MESSAGE}` }]
      : input.messages;
    const variables: Record<string, unknown> = {
      bos_token: tokenizer.bosToken ?? '',
      eos_token: tokenizer.eosToken ?? '',
    };
    for (const [name, value] of Object.entries(input.kwargs)) {
      if (RESERVED.has(name))
        throw templateError(
          `"${name}" cannot be set through chat_template_kwargs.`,
          undefined,
          'chat_template_kwargs',
        );
      variables[name] = value;
    }
    variables.messages = messages;
    variables.tools = input.tools?.length ? input.tools : this.noTools;
    variables.add_generation_prompt = options.addGenerationPrompt ?? false;
    let rendered: string;
    try {
      rendered = this.template.render(variables);
    } catch (error) {
      throw templateError((error as Error).message, error);
    }
    if (!cut) return rendered;
    const end = rendered.lastIndexOf(END_OF_MESSAGE);
    if (end < 0)
      throw templateError('The chat template does not show the last message, so it cannot be continued.');
    return rendered.slice(0, end);
  }

  private takes(tools: null | []): boolean {
    const { bosToken, eosToken } = this.tokenizer;
    const messages = [{ role: 'user', content: 'x' }];
    const variables = { messages, tools, bos_token: bosToken ?? '', eos_token: eosToken ?? '' };
    try {
      this.template.render(variables);
      return true;
    } catch {
      return false;
    }
  }

  private controls(sections: (string | number)[]): number[] {
    return sections.filter((section): section is number => {
      return typeof section === 'number' && this.tokenizer.isControl(section);
    });
  }

  private withBos(ids: number[]): number[] {
    const { addBos, bosId } = this.tokenizer;
    return addBos && bosId !== null && ids[0] !== bosId ? [bosId, ...ids] : ids;
  }
}

function templateError(message: string, cause?: unknown, param = 'messages'): FiligreeError {
  return new FiligreeError('template_error', message, { param, cause });
}
