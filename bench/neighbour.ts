import { spawn } from 'node:child_process';
import { once } from 'node:events';

/**
 * Runs `work` while one process beside it keeps a core busy, as a foreign job on a shared machine would. It is pinned nowhere: the
 * operating system moves it, and whoever loses a time slice to it, as it does outside a benchmark.
 */
export async function besideBusyNeighbour<T>(work: () => Promise<T>): Promise<T> {
  const neighbour = spawn(process.execPath, ['-e', 'process.stdout.write("busy"); for (;;);'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const gone = once(neighbour, 'exit');
  try {
    await Promise.race([
      once(neighbour.stdout, 'data'),
      gone.then(([code]) => {
        throw new Error(`the busy neighbour ended at once (exit code ${code})`);
      }),
    ]);
    return await work();
  } finally {
    neighbour.kill('SIGKILL');
    await gone;
  }
}
