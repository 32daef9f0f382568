/** Names in a body that its schema does not know, shortened and at most 20: they are logged. */
export function unknownParameters(schema: object, body: object): string[] {
  const known = (schema as { properties: Record<string, unknown> }).properties;
  return Object.keys(body)
    .filter((name) => !Object.hasOwn(known, name))
    .slice(0, 20)
    .map((name) => name.slice(0, 60));
}
