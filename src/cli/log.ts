import { type DestinationStream, destination, type Logger, pino } from 'pino';

const NAMES: Record<number, string> = {
  10: 'trace',
  20: 'debug',
  30: 'info',
  40: 'warn',
  50: 'error',
  60: 'fatal',
};

/** A log line for people: time, level, message, and what belongs to it. */
function readable(line: string): string {
  const { level, time, msg, pid: _pid, hostname: _host, err, ...rest } = JSON.parse(line);
  const fields = Object.entries(rest)
    .map(([key, value]) => `${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');
  const stack = err ? `\n${err.stack ?? err.message}` : '';
  return `${new Date(time).toISOString().slice(11, 23)} ${NAMES[level] ?? level} ${msg ?? ''} ${fields}${stack}\n`;
}

/** Logs on stderr: JSON lines for machines, readable ones on a terminal. Stdout belongs to the command's result. */
export function makeLogger(level: string): Logger {
  const stream: DestinationStream = process.stderr.isTTY
    ? { write: (line) => void process.stderr.write(readable(line)) }
    : destination({ dest: 2, sync: false });
  return pino({ level }, stream);
}
