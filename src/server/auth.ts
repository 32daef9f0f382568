import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { FiligreeError } from '../errors.js';

/** The WebSocket's own subprotocol, and the prefix of one that carries the key: a browser can send no header. */
export const SUBPROTOCOL = 'filigree';
const KEY_PROTOCOLS = ['filigree-key.', 'openai-insecure-api-key.'];

const digest = (key: string) => createHash('sha256').update(key).digest();

/** The key of a request: bearer, Anthropic's header, or a WebSocket subprotocol. */
export function presentedKey(headers: IncomingHttpHeaders): string | null {
  const bearer = /^Bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? '')?.[1];
  if (bearer !== undefined) return bearer;
  const header = headers['x-api-key'];
  if (typeof header === 'string' && header !== '') return header;
  for (const offered of (headers['sec-websocket-protocol'] ?? '').split(',')) {
    const protocol = offered.trim();
    const prefix = KEY_PROTOCOLS.find((p) => protocol.startsWith(p));
    if (prefix !== undefined) return protocol.slice(prefix.length);
  }
  return null;
}

/** Which of the offered subprotocols the server takes; never the one that is the key. */
export function chooseProtocol(offered: Set<string>): string | false {
  if (offered.has(SUBPROTOCOL)) return SUBPROTOCOL;
  for (const protocol of offered) if (!KEY_PROTOCOLS.some((p) => protocol.startsWith(p))) return protocol;
  return false;
}

/** Checks keys in a time that does not tell how much of a guess was right. */
export class KeyRing {
  private readonly digests: Buffer[];

  constructor(keys: readonly string[]) {
    this.digests = keys.map(digest);
  }

  /** @throws FiligreeError invalid_api_key */
  check(headers: IncomingHttpHeaders): void {
    if (this.digests.length === 0) return;
    const key = presentedKey(headers);
    if (key === null)
      throw new FiligreeError('invalid_api_key', 'This server wants a key: send Authorization: Bearer KEY.');
    const given = digest(key);
    let known = false;
    for (const expected of this.digests) known = timingSafeEqual(expected, given) || known;
    if (!known) throw new FiligreeError('invalid_api_key', 'The key is not one that this server knows.');
  }
}
