import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { PACKAGE_ROOT } from '../config.js';

interface Asset {
  body: Buffer;
  type: string;
  etag: string;
}

/** The page's files: what is written by hand stands in `web/`, scripts are compiled to `dist/web/`. */
const FILES: readonly [path: string, folder: string, type: string][] = [
  ['index.html', 'web', 'text/html; charset=utf-8'],
  ['style.css', 'web', 'text/css; charset=utf-8'],
  ['icon.svg', 'web', 'image/svg+xml'],
  ...['app.js', 'compare.js', 'dom.js', 'gauges.js', 'model.js', 'stream.js'].map(
    (name): [string, string, string] => [name, 'dist/web', 'text/javascript; charset=utf-8'],
  ),
];

/** Nothing from elsewhere, nothing inline, no frame around it. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ');

/** The files in memory by name; those that are not built are missing, and the page then answers 404. */
export function readAssets(): Map<string, Asset> {
  const assets = new Map<string, Asset>();
  for (const [name, folder, type] of FILES) {
    const path = join(PACKAGE_ROOT, folder, name);
    if (!existsSync(path)) continue;
    const body = readFileSync(path);
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
    assets.set(name, { body, type, etag });
  }
  return assets;
}

export function sendAsset(request: FastifyRequest, reply: FastifyReply, asset: Asset): FastifyReply {
  void reply.headers({
    'content-type': asset.type,
    'content-security-policy': POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    // Asked again each time, answered 304: a new release shows at once.
    'cache-control': 'no-cache',
    etag: asset.etag,
  });
  if (request.headers['if-none-match'] === asset.etag) return reply.code(304).send();
  return reply.serializer((payload: unknown) => payload as string).send(asset.body);
}
