/**
 * Every error that Filigree raises on purpose has a code from this one table. The code decides the HTTP status
 * and OpenAI's `type` on the server, and the exit status of a command; the message says what is wrong and what
 * to do next. Anything that is not a FiligreeError is a fault of ours: clients see only that it happened.
 *
 * Messages of codes with a status below 500 reach clients, so they never hold a path of the server's file
 * system; codes marked `local` may, and become a bare 500 when they surface during a request.
 */
interface CodeInfo {
  /** HTTP status of the answer. */
  status: number;
  /** OpenAI's `error.type`. */
  type: string;
  /** Exit status of a command (1 unless said): 2 is wrong usage. */
  exit?: number;
  /** The message may name files of this machine: for the operator, never for a client. */
  local?: boolean;
}

export const ERROR_CODES = {
  // The command line and this machine
  usage: { status: 500, type: 'server_error', exit: 2, local: true },
  io_error: { status: 500, type: 'server_error', local: true },
  address_in_use: { status: 500, type: 'server_error', local: true },
  out_of_memory: { status: 500, type: 'server_error', local: true },
  native_unavailable: { status: 500, type: 'server_error', local: true },
  isa_unsupported: { status: 500, type: 'server_error', exit: 2, local: true },

  download_failed: { status: 500, type: 'server_error', local: true },

  // Models on disk
  model_missing: { status: 500, type: 'server_error', local: true },
  model_invalid: { status: 500, type: 'server_error', local: true },
  model_unsupported: { status: 500, type: 'server_error', local: true },
  tokenizer_invalid: { status: 500, type: 'server_error', local: true },
  template_invalid: { status: 500, type: 'server_error', local: true },

  // Requests
  invalid_json: { status: 400, type: 'invalid_request_error' },
  invalid_value: { status: 400, type: 'invalid_request_error' },
  unsupported_value: { status: 400, type: 'invalid_request_error' },
  template_error: { status: 400, type: 'invalid_request_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  not_found: { status: 404, type: 'invalid_request_error' },
  model_not_found: { status: 404, type: 'invalid_request_error' },
  method_not_allowed: { status: 405, type: 'invalid_request_error' },
  request_too_large: { status: 413, type: 'invalid_request_error' },
  unsupported_media_type: { status: 415, type: 'invalid_request_error' },
  rate_limit_exceeded: { status: 429, type: 'rate_limit_error' },

  // The engine's state
  queue_full: { status: 503, type: 'service_unavailable_error' },
  unhealthy: { status: 503, type: 'service_unavailable_error' },
  server_draining: { status: 503, type: 'service_unavailable_error' },
  constraint_failed: { status: 400, type: 'invalid_request_error' },
  request_aborted: { status: 499, type: 'invalid_request_error' },
  no_token_allowed: { status: 400, type: 'invalid_request_error' },
  non_finite_logits: { status: 500, type: 'server_error' },
  engine_failed: { status: 500, type: 'server_error', local: true },
  internal_error: { status: 500, type: 'server_error', local: true },
} as const satisfies Record<string, CodeInfo>;

export type ErrorCode = keyof typeof ERROR_CODES;

export interface FiligreeErrorOptions extends ErrorOptions {
  /** The request parameter at fault, as the client spelled its path: `stop`, `messages[2].content`. */
  param?: string | null;
  /** Seconds after which trying again makes sense; becomes `Retry-After`. */
  retryAfter?: number;
}

export class FiligreeError extends Error {
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, message: string, options: FiligreeErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'FiligreeError';
    this.code = code;
    this.param = options.param ?? null;
    this.retryAfter = options.retryAfter;
  }

  get info(): CodeInfo {
    return ERROR_CODES[this.code];
  }
}

/** A fault that must not hide: a broken invariant of ours, never bad input. */
export function unreachable(what: never): never {
  throw new FiligreeError('internal_error', `unexpected value ${String(what)}`);
}
