/**
 * Keeps text that others wrote from becoming control tokens.
 *
 * A chat template mixes its own control tokens with the caller's strings, and afterwards nobody can tell which is
 * which. So before rendering, wherever a caller's string spells a control token, or could complete one together with
 * the text beside it, a mark is put inside; a mark is one character that occurs in none of the strings and that no
 * template knows, so it survives trimming, joining and JSON. After rendering the marks are taken out again, and what
 * remains of them are *seams*: positions which no control token may span.
 *
 * That covers what a template does by concatenation. What it does by removal (a filter that deletes something in the
 * middle of a forged token) is caught by `disguise`: rendered with the first character of every control token
 * replaced in the caller's strings, the template must still write the same control tokens.
 */

type Transform = (text: string, structural: boolean) => string;

/** Names a template compares with and builds control tokens from: `<|` + role + `|>`. */
const STRUCTURAL_KEYS = new Set(['role', 'type']);

/** Private-use characters: they mean nothing, and no trim, case mapping or tokenizer treats them specially. */
const MARKS: readonly [from: number, to: number][] = [
  [0xe000, 0xf8ff],
  [0xf0000, 0xffffd],
];

export interface GuardedText {
  text: string;
  /** Positions in `text` at which a mark stood. */
  seams: Set<number>;
}

export class ForgeryGuard {
  private readonly lower: string[];
  private readonly firsts: Set<string>;
  private readonly pattern: RegExp | null;

  constructor(controlTexts: readonly string[]) {
    this.lower = controlTexts.map((text) => text.toLowerCase());
    this.firsts = new Set(controlTexts.map((text) => [...text][0] as string));
    const sorted = [...this.lower].sort((a, b) => b.length - a.length).map(escapeRegExp);
    this.pattern = sorted.length === 0 ? null : new RegExp(sorted.join('|'), 'gi');
  }

  /** Two characters that occur nowhere in the value: the mark, and what `disguise` puts in. Null if there are none. */
  chooseMarks(value: unknown): [string, string] | null {
    const used = new Set<string>();
    walk(value, (text) => {
      for (const character of text) if ((character.codePointAt(0) as number) >= 0xe000) used.add(character);
      // A mark's JSON escape is removed with it, so it must not stand there by itself either.
      for (const [, hex] of text.matchAll(/\\u([0-9a-fA-F]{4})/g)) {
        used.add(String.fromCharCode(Number.parseInt(hex as string, 16)));
      }
      return text;
    });
    const found: string[] = [];
    for (const [from, to] of MARKS) {
      for (let code = from; code <= to && found.length < 2; code++) {
        const character = String.fromCodePoint(code);
        if (!used.has(character)) found.push(character);
      }
    }
    return found.length === 2 ? [found[0] as string, found[1] as string] : null;
  }

  /** The value with marks in all strings that could forge. */
  mark<T>(value: T, mark: string): T {
    return walk(value, (text, structural) => this.markText(text, mark, structural)) as T;
  }

  /** Whether any string holds a character that begins a control token. */
  suspicious(value: unknown): boolean {
    let found = false;
    walk(value, (text) => {
      for (const first of this.firsts) found ||= text.includes(first);
      return text;
    });
    return found;
  }

  /** The value without any character that begins a control token. */
  disguise<T>(value: T, replacement: string): T {
    return walk(value, (text) => {
      let disguised = text;
      for (const first of this.firsts) disguised = disguised.replaceAll(first, replacement);
      return disguised;
    }) as T;
  }

  /** Takes the marks out of a rendered text. */
  unmark(rendered: string, mark: string): GuardedText {
    const escaped = mark.length === 1 ? `\\\\u${mark.charCodeAt(0).toString(16)}` : '';
    const parts = rendered.split(new RegExp(escaped === '' ? mark : `${mark}|${escaped}`, 'i'));
    const seams = new Set<number>();
    let text = parts[0] as string;
    for (const part of parts.slice(1)) {
      seams.add(text.length);
      text += part;
    }
    return { text, seams };
  }

  private markText(text: string, mark: string, structural: boolean): string {
    if (this.pattern === null || text === '') return text;
    const cuts = new Set<number>();
    // Whole tokens, overlapping ones too.
    this.pattern.lastIndex = 0;
    for (let match = this.pattern.exec(text); match !== null; match = this.pattern.exec(text)) {
      cuts.add(match.index + Math.min(1, match[0].length - 1));
      this.pattern.lastIndex = match.index + 1;
    }
    if (!structural) this.markEdges(text, cuts);
    if (cuts.size === 0) return text;
    let marked = '';
    let start = 0;
    for (const cut of [...cuts].sort((a, b) => a - b)) {
      marked += text.slice(start, cut) + mark;
      start = cut;
    }
    return marked + text.slice(start);
  }

  /** The ends of a string, as they are and trimmed, that could meet the rest of a token outside of it. */
  private markEdges(text: string, cuts: Set<number>): void {
    const lower = text.toLowerCase();
    if (lower.length !== text.length) {
      // Case mapping changed positions: mark both ends, which blocks everything that reaches beyond them.
      cuts.add(0);
      cuts.add(text.length);
      return;
    }
    const begin = lower.length - lower.trimStart().length;
    const end = lower.trimEnd().length;
    for (const token of this.lower) {
      for (const from of [0, begin]) {
        // Longest beginning of the string that ends the token: the mark goes before its last character.
        for (let n = Math.min(token.length - 1, lower.length - from); n > 0; n--) {
          if (!token.endsWith(lower.slice(from, from + n))) continue;
          cuts.add(from + n - 1);
          break;
        }
      }
      for (const to of [end, lower.length]) {
        for (let n = Math.min(token.length - 1, to); n > 0; n--) {
          if (!token.startsWith(lower.slice(to - n, to))) continue;
          cuts.add(to - n + 1);
          break;
        }
      }
      if (end - begin < token.length && end > begin && token.includes(lower.slice(begin, end))) {
        cuts.add(begin + (end - begin > 1 ? 1 : 0));
      }
    }
  }
}

/** A copy of a JSON-like value with every string, object keys included, passed through `transform`. */
function walk(value: unknown, transform: Transform, structural = false): unknown {
  if (typeof value === 'string') return transform(value, structural);
  if (Array.isArray(value)) return value.map((item) => walk(item, transform));
  if (value === null || typeof value !== 'object') return value;
  const copy: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) {
    copy[transform(key, true)] = walk(item, transform, STRUCTURAL_KEYS.has(key));
  }
  return copy;
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');
}
