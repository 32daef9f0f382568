export interface ProgressLine {
  show(line: string): void;
  end(): void;
}

/** One line on stderr that is written over: shown on a terminal, and not beside `--json`. */
export function progressLine(quiet: boolean | undefined): ProgressLine {
  if (quiet || !process.stderr.isTTY) return { show: () => {}, end: () => {} };
  return {
    show: (line) => void process.stderr.write(`\r\x1b[K${line}`),
    end: () => void process.stderr.write('\r\x1b[K'),
  };
}
