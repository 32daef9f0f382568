import { CallReader } from './call-reader.js';
import type { ToolFamily } from './families.js';

/** An answer taken apart: text, and calls with indexes that count from 0. */
export type AnswerEvent =
  | { type: 'text'; text: string }
  | { type: 'call'; index: number; name: string }
  | { type: 'arguments'; index: number; text: string };

/**
 * Finds the calls in an answer as it is written. Text that may begin a call waits until it is known whether it does; text that
 * only looked like one comes out as text. The events do not depend on how the answer was cut into pieces, but for the cuts
 * inside texts and arguments.
 */
export class CallParser {
  calls = 0;
  private mode: 'start' | 'text' | 'between' = 'start';
  private held = '';
  private reader: CallReader | null = null;
  private announced = false;
  /** White space behind the last text, which calls swallow. */
  private space = '';

  constructor(
    private readonly family: ToolFamily,
    private readonly names: ReadonlySet<string>,
  ) {
    if (family.marker !== null) this.mode = 'text';
  }

  push(text: string): AnswerEvent[] {
    const events: AnswerEvent[] = [];
    for (const character of text) this.take(character, events);
    return merged(events);
  }

  /** What still waits, when nothing more comes. */
  flush(): AnswerEvent[] {
    const events: AnswerEvent[] = [];
    if (this.reader !== null && !this.announced) this.giveUp(events);
    else if (this.mode !== 'between') this.text(this.held, events);
    this.held = '';
    if (this.calls === 0 && this.space !== '') events.push({ type: 'text', text: this.space });
    return merged(events);
  }

  private take(character: string, events: AnswerEvent[]): void {
    if (this.reader !== null) this.inCall(character, events);
    else if (this.mode === 'between') this.betweenCalls(character, events);
    else this.inText(character, events);
  }

  private inText(character: string, events: AnswerEvent[]): void {
    this.held += character;
    if (this.mode === 'start') {
      // Without a marker, an answer that begins like a call is one.
      const begun = this.held.trimStart();
      if (begun === '') return;
      if (begun.startsWith('{')) {
        this.open(character);
        return;
      }
      this.mode = 'text';
      this.text(this.held, events);
      this.held = '';
      return;
    }
    const marker = this.family.marker ?? '';
    if (marker !== '' && this.held.endsWith(marker)) {
      this.text(this.held.slice(0, -marker.length), events);
      this.held = marker;
      this.mode = 'between';
      return;
    }
    const keep = marker === '' ? 0 : tail(this.held, marker);
    this.text(this.held.slice(0, this.held.length - keep), events);
    this.held = this.held.slice(this.held.length - keep);
  }

  private open(character: string): void {
    this.reader = new CallReader();
    this.announced = false;
    this.reader.push(character);
  }

  private inCall(character: string, events: AnswerEvent[]): void {
    const reader = this.reader as CallReader;
    for (const event of reader.push(character)) {
      if (event.type === 'name') {
        // Without a marker, JSON that names no tool is an answer in JSON.
        if (this.family.marker === null && !this.names.has(event.name)) {
          this.giveUp(events);
          return;
        }
        this.announced = true;
        events.push({ type: 'call', index: this.calls, name: event.name });
        this.held = '';
        this.space = '';
      } else if (event.type === 'arguments')
        events.push({ type: 'arguments', index: this.calls, text: event.text });
    }
    if (reader.ended && this.announced) {
      this.calls++;
      this.reader = null;
      this.mode = 'between';
    } else if (reader.failed) this.giveUp(events);
  }

  /** It was no call: what was held back is text. */
  private giveUp(events: AnswerEvent[]): void {
    const raw = (this.reader as CallReader).raw;
    this.reader = null;
    this.mode = 'text';
    // The brace that opened it stands in `held` too, where there was no marker.
    const before = this.family.marker === null ? this.held.slice(0, this.held.lastIndexOf('{')) : this.held;
    if (!this.announced) this.text(before + raw, events);
    this.held = '';
  }

  private betweenCalls(character: string, events: AnswerEvent[]): void {
    this.held += character;
    const { end } = this.family;
    if (end !== null && this.held.endsWith(end)) {
      this.held = '';
      this.mode = 'text';
      return;
    }
    if (character === '{') {
      // What stood before it belongs to the call's notation.
      this.reader = new CallReader();
      this.announced = false;
      this.held = this.held.slice(0, -1);
      this.reader.push(character);
      return;
    }
    const rest = this.held.replace(this.family.marker ?? '', '').replace(/^[\s,;[\]]+/, '');
    if (rest === '' || end?.startsWith(rest) || this.family.marker?.startsWith(rest)) return;
    this.text(this.held, events);
    this.held = '';
    this.mode = 'text';
  }

  private text(text: string, events: AnswerEvent[]): void {
    const all = this.space + text;
    const shown = all.trimEnd();
    this.space = all.slice(shown.length);
    if (shown !== '') events.push({ type: 'text', text: shown });
  }
}

/** Length of the longest tail of a text that a marker begins with. */
function tail(text: string, marker: string): number {
  for (let length = Math.min(marker.length - 1, text.length); length > 0; length--)
    if (text.endsWith(marker.slice(0, length))) return length;
  return 0;
}

function merged(events: AnswerEvent[]): AnswerEvent[] {
  const out: AnswerEvent[] = [];
  for (const event of events) {
    const last = out.at(-1);
    if (last?.type === 'text' && event.type === 'text') last.text += event.text;
    else if (last?.type === 'arguments' && event.type === 'arguments' && last.index === event.index)
      last.text += event.text;
    else out.push({ ...event });
  }
  return out;
}
