import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { PACKAGE_ROOT } from '../config.js';
import { FiligreeError } from '../errors.js';
import type { NativeAddon } from './addon-types.js';

let loaded: NativeAddon | undefined;

/** Where the addon may be, best first. FILIGREE_ADDON names one file and nothing else is tried (a sanitizer build, a test). */
export function addonCandidates(env: NodeJS.ProcessEnv = process.env): string[] {
  if (env.FILIGREE_ADDON) return [path.resolve(env.FILIGREE_ADDON)];
  return [
    path.join(PACKAGE_ROOT, 'build', 'Release', 'filigree.node'),
    path.join(PACKAGE_ROOT, 'prebuilds', `${process.platform}-${process.arch}`, 'filigree.node'),
  ];
}

/** @throws FiligreeError native_unavailable that says what to run */
export function loadAddon(): NativeAddon {
  if (loaded) return loaded;
  const candidates = addonCandidates();
  const file = candidates.find((candidate) => existsSync(candidate));
  if (file === undefined) {
    throw new FiligreeError(
      'native_unavailable',
      `the native addon has not been built (looked for ${candidates.join(' and ')}); run "npm run build:native" in a clone, or "npm rebuild filigree" where it is installed`,
    );
  }
  try {
    loaded = createRequire(import.meta.url)(file) as NativeAddon;
  } catch (cause) {
    throw new FiligreeError(
      'native_unavailable',
      `${file} cannot be loaded (${cause instanceof Error ? cause.message : String(cause)}); it was built for another system: run "npm run build:native" in a clone, or "npm rebuild filigree" where it is installed`,
      { cause },
    );
  }
  return loaded;
}
