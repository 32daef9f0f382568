import { isUtf8 } from 'node:buffer';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { FiligreeError } from '../errors.js';

/** @throws FiligreeError invalid_json, saying where */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    // V8 quotes the text around the fault: keep it short.
    throw new FiligreeError('invalid_json', `The body is not valid JSON: ${reason.slice(0, 160)}`, {
      cause: error,
    });
  }
}

/** JSON bodies, checked to be UTF-8: a replaced character would change a prompt without a word. */
export function registerJson(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer' },
    async (request: FastifyRequest, body: Buffer) => {
      // OpenAI's Python client announces JSON on a DELETE, too.
      if (body.length === 0 && !request.routeOptions.schema?.body) return undefined;
      if (body.length === 0)
        throw new FiligreeError('invalid_json', 'The body is empty: send a JSON object.');
      if (!isUtf8(body)) throw new FiligreeError('invalid_json', 'The body is not valid UTF-8.');
      return parseJson(body.toString('utf8'));
    },
  );
}
