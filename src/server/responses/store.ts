import { FiligreeError } from '../../errors.js';
import type { ChatMessage } from '../schemas/chat.js';

/** A finished or running response, and the conversation that a next one goes on from. */
export interface StoredResponse {
  response: { id: string; [field: string]: unknown };
  /** The items that the request itself brought. */
  input: object[];
  /** The conversation up to this response's answer, without its instructions. */
  messages: ChatMessage[];
  /** Stops a response that runs in the background; null once it has ended. */
  cancel: (() => void) | null;
}

/**
 * Responses in memory, the oldest dropped first: bounded in number and in characters, so that no client can fill the
 * server. Conversations share their earlier messages by reference, but each is counted whole: the bound holds however
 * they share.
 */
export class ResponseStore {
  private readonly entries = new Map<string, { stored: StoredResponse; size: number }>();
  private size = 0;

  constructor(
    private readonly mostEntries = 1024,
    private readonly mostCharacters = 64 * 1024 * 1024,
  ) {}

  get count(): number {
    return this.entries.size;
  }

  has(id: string): boolean {
    return this.entries.has(id);
  }

  put(stored: StoredResponse): void {
    const { id } = stored.response;
    this.drop(id);
    const size = JSON.stringify([stored.response, stored.input, stored.messages]).length;
    this.entries.set(id, { stored, size });
    this.size += size;
    for (const [oldest, { stored: other }] of this.entries) {
      if (this.entries.size <= this.mostEntries && this.size <= this.mostCharacters) break;
      // One that runs is still somebody's: it is bounded by the queue.
      if (other.cancel === null) this.drop(oldest);
    }
  }

  /** @throws FiligreeError not_found */
  get(id: string): StoredResponse {
    const entry = this.entries.get(id);
    if (entry === undefined)
      throw new FiligreeError(
        'not_found',
        `No response '${id.slice(0, 100)}' is stored. Responses are kept in memory, the oldest dropped first; store: false keeps none.`,
        { param: 'response_id' },
      );
    return entry.stored;
  }

  /** Whether it was there. */
  drop(id: string): boolean {
    const entry = this.entries.get(id);
    if (entry === undefined) return false;
    this.entries.delete(id);
    this.size -= entry.size;
    return true;
  }
}
