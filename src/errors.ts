/** An error that a person can act on: `code` is stable, `message` says what is wrong and what to do next. */
export class FiligreeError extends Error {
  constructor(
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'FiligreeError';
  }
}
