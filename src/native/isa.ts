import { FiligreeError } from '../errors.js';
import type { NativeInfo } from './addon-types.js';

/** @throws FiligreeError `isa_unsupported` unless this processor has the instruction set */
export function checkIsa(isa: string, info: NativeInfo): void {
  if (info.isas.includes(isa)) return;
  throw new FiligreeError(
    'isa_unsupported',
    `instruction set '${isa}' is not one that this processor (${info.cpu}) has; choose one of ${info.isas.join(', ')}`,
  );
}
