import type { Json } from './fixture.js';

/** Events of a stream that names them; throws where a name and a type differ. */
export function namedEvents(text: string): Json[] {
  return text
    .split('\n\n')
    .filter((part) => part !== '')
    .map((part) => {
      const [, name, data] = /^event: (\S+)\ndata: (.*)$/s.exec(part) ?? [];
      const event = JSON.parse(data ?? 'null');
      if (event?.type !== name) throw new Error(`not a named event: ${part}`);
      return event;
    });
}
