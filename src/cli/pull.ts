import { pull } from '../model/hub/pull.js';
import { loadProgress } from './progress.js';

export interface PullCommandOptions {
  from?: string;
  revision?: string;
  file?: string;
  parallel: number;
  verify?: boolean;
  json?: boolean;
}

const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** `filigree pull ID`: a model of a hub, into the cache. */
export async function pullCommand(id: string, options: PullCommandOptions): Promise<void> {
  const progress = loadProgress(id);
  try {
    const { json, ...how } = options;
    const pulled = await pull(id, { ...how, onProgress: progress.update });
    progress.stop();
    if (json) {
      process.stdout.write(`${JSON.stringify(pulled)}\n`);
      return;
    }
    if (pulled.offline)
      process.stderr.write('filigree: the hub cannot be reached; this is what the cache holds\n');
    const fresh = pulled.downloaded === 0 ? 'all there already' : `${mib(pulled.downloaded)} downloaded`;
    process.stdout.write(`${pulled.path}\n${mib(pulled.bytes)}, ${fresh}. Serve it: filigree serve ${id}\n`);
  } finally {
    progress.stop();
  }
}
