// Log-probabilities of token windows under a model, by the addon alone: runs under a foreign processor's Node, where neither
// TypeScript nor the packages of this repository can be loaded. Reads {addon, manifest, params, isa, weights, kv, windows} as
// JSON from the file named (params without its seed, which JSON cannot hold), prints {isa, logprobs: number[][]} of the windows.
const { readFileSync } = require('node:fs');

async function main({ addon, manifest, params, isa, weights, kv, windows }) {
  const { Engine } = require(addon);
  const longest = Math.max(...windows.map((ids) => ids.length));
  const engine = new Engine();
  const info = await engine.load(manifest, {
    weights,
    dense: false,
    kv,
    threads: 2,
    isa,
    maxModelLen: longest,
    maxSlots: 1,
    maxBatchedTokens: longest,
    kvBytes: 1 << 28,
    cacheFolder: '',
  });
  const none = new Int32Array(0);
  const logprobs = [];
  for (const ids of windows) {
    const tokens = Int32Array.from(ids);
    const blocks = Int32Array.from({ length: Math.ceil(ids.length / 16) }, (_, i) => i);
    engine.openSlot(0, { ...params, seed: 0n }, tokens, none);
    const entry = Int32Array.of(0, 0, ids.length, blocks.length, 0);
    const result = await engine.step(entry, tokens, blocks, none);
    logprobs.push([...result.promptLogprobs]);
    engine.closeSlot(0);
  }
  await engine.close();
  return { isa: info.isa, logprobs };
}

main(JSON.parse(readFileSync(process.argv[2], 'utf8'))).then(
  (result) => process.stdout.write(JSON.stringify(result)),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
