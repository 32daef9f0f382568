import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Contestant } from '../../bench/contestant.js';
import { FiligreeError } from '../errors.js';
import { cacheFolder } from '../model/resolve.js';
import { type BenchOptions, contest } from './bench.js';
import { integer, pick } from './bench-options.js';
import { ownContestants } from './own-contestants.js';
import { progressLine } from './progress-line.js';

export interface BenchPeersOptions extends BenchOptions {
  gguf?: string[];
  peerTypes: string;
  llamaBench?: string;
  nodeLlamaCpp?: string;
  url?: string[];
  generate: string;
  peerTimeout: string;
}

/**
 * `filigree bench peers [MODEL]`: ours and what is installed beside it, interleaved in one run. GGUF engines take the
 * files of --gguf (a MODEL that is one is meant too); for --shape they get random weights of the same shape.
 */
export async function benchPeersCommand(
  model: string | undefined,
  options: BenchPeersOptions,
): Promise<void> {
  const [peers, randomGguf, native] = await Promise.all([
    import('../../bench/peers.js'),
    import('../../bench/random-gguf.js'),
    import('../native/index.js'),
  ]);
  const peerOptions = {
    threads:
      options.threads === undefined
        ? (await native.nativeInfo()).defaultThreads
        : integer('--threads', options.threads, 1),
    generate: integer('--generate', options.generate, 2),
    timeoutSeconds: integer('--peer-timeout', options.peerTimeout, 1),
  };
  const nodeLlama = peers.findNodeLlamaCpp(options.nodeLlamaCpp ?? process.cwd());
  if (options.nodeLlamaCpp !== undefined && nodeLlama === null)
    throw new FiligreeError('usage', `node-llama-cpp is not installed in ${options.nodeLlamaCpp}`);
  if (options.llamaBench !== undefined && !existsSync(options.llamaBench))
    throw new FiligreeError('usage', `there is no program ${options.llamaBench}`);
  if (nodeLlama === null && options.llamaBench === undefined && options.url === undefined)
    throw new FiligreeError(
      'usage',
      'no peer was found: install one beside this (npm i --ignore-scripts --omit=optional node-llama-cpp ' +
        '@node-llama-cpp/linux-x64), or name one by --llama-bench or --url',
    );

  const progress = progressLine(options.json);
  const ggufs = [...(options.gguf ?? [])];
  if (model?.toLowerCase().endsWith('.gguf') && options.gguf === undefined) ggufs.push(model);
  if (options.shape !== undefined && options.gguf === undefined)
    for (const type of pick('--peer-types', options.peerTypes, randomGguf.randomGgufTypes)) {
      const path = join(cacheFolder(), 'bench', `random-${options.shape}-${type}.gguf`);
      progress.show(`writing ${path}`);
      if (!existsSync(path)) randomGguf.writeRandomGguf(path, options.shape, type);
      ggufs.push(path);
    }
  if (ggufs.length === 0 && options.url === undefined)
    throw new FiligreeError('usage', 'llama.cpp and node-llama-cpp read GGUF files: name one by --gguf');
  for (const gguf of ggufs)
    if (!existsSync(gguf)) throw new FiligreeError('usage', `there is no file ${gguf}`);

  const others: Contestant[] = ggufs.flatMap((gguf) => [
    ...(options.llamaBench === undefined ? [] : [peers.llamaBench(options.llamaBench, gguf, peerOptions)]),
    ...(nodeLlama === null ? [] : [peers.nodeLlamaCpp(nodeLlama, gguf, peerOptions)]),
  ]);
  for (const named of options.url ?? []) {
    const [, name, url] = /^(?:([^=/]+)=)?(.+)$/.exec(named)!;
    others.push(await peers.serverPeer(name ?? 'server', url!, peerOptions));
  }
  const { contestants, name } = await ownContestants(model, options, progress);
  await contest([...contestants, ...others], name, options, progress);
}
