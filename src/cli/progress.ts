import cliProgress from 'cli-progress';

export interface Progress {
  update(done: number, total: number): void;
  stop(): void;
}

const mib = (bytes: number) => Math.round(bytes / 2 ** 20);

/** A bar on a terminal; a line at the end when piped, and nothing for a load that takes no time. */
export function loadProgress(name: string): Progress {
  const started = performance.now();
  if (!process.stderr.isTTY) {
    let loaded = 0;
    return {
      update: (_done, total) => {
        loaded = total;
      },
      stop: () => {
        const seconds = (performance.now() - started) / 1000;
        if (seconds >= 1)
          process.stderr.write(`loaded ${name}: ${mib(loaded)} MiB in ${seconds.toFixed(1)} s\n`);
      },
    };
  }
  let bar: cliProgress.SingleBar | null = null;
  return {
    update(done, total) {
      if (performance.now() - started < 300) return;
      if (bar === null) {
        bar = new cliProgress.SingleBar(
          {
            format: `${name} [{bar}] {percentage} % of {total} MiB`,
            stream: process.stderr,
            clearOnComplete: true,
          },
          cliProgress.Presets.shades_classic,
        );
        bar.start(mib(total), mib(done));
      } else bar.update(mib(done));
    },
    stop: () => bar?.stop(),
  };
}
