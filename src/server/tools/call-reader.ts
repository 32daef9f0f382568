/** What a call says, as it is read: its name once, then its arguments as JSON text, piece by piece. */
export type CallEvent =
  | { type: 'name'; name: string }
  | { type: 'arguments'; text: string }
  | { type: 'end' };

/**
 * Reads one call, `{"name": ..., "arguments": {...}}` (or `parameters`), character by character. Whatever order the keys have,
 * the name comes out first; the arguments are the model's own text.
 */
export class CallReader {
  /** All that was read, for whoever finds that it was no call. */
  raw = '';
  /** Not JSON, or a call without a name. */
  failed = false;
  ended = false;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private part: 'key' | 'colon' | 'value' = 'key';
  private key = '';
  private token = '';
  private named = false;
  private waiting = '';
  private hasArguments = false;

  push(character: string): CallEvent[] {
    this.raw += character;
    if (this.depth === 0) {
      if (character === '{') this.depth = 1;
      else if (character.trim() !== '') this.failed = true;
      return [];
    }
    const events: CallEvent[] = [];
    const top = this.depth === 1 && !this.inString;
    if (top && (character === ',' || character === '}')) {
      this.endValue(events);
      if (character === '}') this.finish(events);
      return events;
    }
    if (this.inString) {
      if (this.escaped) this.escaped = false;
      else if (character === '\\') this.escaped = true;
      else if (character === '"') this.inString = false;
    } else if (character === '"') this.inString = true;
    else if (character === '{' || character === '[') this.depth++;
    else if (character === '}' || character === ']') this.depth--;

    if (this.part === 'key') {
      this.token += character;
      if (!this.inString && this.token.trim().length > 1) {
        this.key = parsed(this.token) as string;
        this.failed ||= typeof this.key !== 'string';
        this.part = 'colon';
        this.token = '';
      }
    } else if (this.part === 'colon') {
      if (character === ':') this.part = 'value';
    } else {
      if (this.token === '' && character.trim() === '') return events;
      this.token += character;
      if (this.isArguments && this.token[0] !== '"') this.argument(character, events);
    }
    return events;
  }

  private get isArguments(): boolean {
    return this.key === 'arguments' || this.key === 'parameters';
  }

  private endValue(events: CallEvent[]): void {
    if (this.part === 'value') {
      const value = parsed(this.token);
      if (value === undefined) this.failed = true;
      else if (this.key === 'name' && typeof value === 'string' && !this.named) {
        this.named = true;
        events.push({ type: 'name', name: value });
        if (this.waiting !== '') events.push({ type: 'arguments', text: this.waiting });
      } else if (this.isArguments && typeof value === 'string') this.argument(value, events);
    }
    this.part = 'key';
    this.token = '';
  }

  private argument(text: string, events: CallEvent[]): void {
    this.hasArguments = true;
    if (this.named) events.push({ type: 'arguments', text });
    else this.waiting += text;
  }

  private finish(events: CallEvent[]): void {
    this.ended = true;
    if (!this.named) {
      this.failed = true;
      return;
    }
    if (!this.hasArguments) events.push({ type: 'arguments', text: '{}' });
    events.push({ type: 'end' });
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
