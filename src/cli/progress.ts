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

/** Seconds between two lines of progress where there is no terminal. */
const LINE_EVERY_MS = 30_000;

/** Progress of countable work: a bar with the time left on a terminal, a line now and then when piped. */
export function taskProgress(name: string): Progress {
  const started = performance.now();
  if (!process.stderr.isTTY) {
    let last = started;
    return {
      update(done, total) {
        const now = performance.now();
        if (now - last < LINE_EVERY_MS && done < total) return;
        if (done === total && now - started < 1000) return;
        last = now;
        const left = Math.round((((now - started) / done) * (total - done)) / 1000);
        const end = done === total ? `in ${((now - started) / 1000).toFixed(1)} s` : `about ${left} s left`;
        process.stderr.write(`${name}: ${done} of ${total}, ${end}\n`);
      },
      stop() {},
    };
  }
  const bar = new cliProgress.SingleBar(
    {
      format: `${name} [{bar}] {value}/{total}, {eta_formatted} left`,
      stream: process.stderr,
      clearOnComplete: true,
      etaBuffer: 200,
    },
    cliProgress.Presets.shades_classic,
  );
  let begun = false;
  return {
    update(done, total) {
      if (!begun) bar.start(total, done);
      else bar.update(done);
      begun = true;
    },
    stop: () => bar.stop(),
  };
}
