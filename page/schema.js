// A JSON schema in words: what a field may be.

/** Follow `$ref`s of the form `#/components/schemas/Name`. */
export function resolve(schema, document) {
  if (!schema.$ref) return schema;
  const path = schema.$ref.replace("#/", "").split("/");
  return resolve(path.reduce((node, name) => node[name], document), document);
}

export function nameOf(schema) {
  return schema.$ref?.split("/").at(-1) ?? schema.title ?? "";
}

/** Such as `integer`, `string or list of string or null`. */
export function typeInWords(schema, document) {
  if (schema.$ref) return nameOf(schema);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf) return schema.anyOf.map((one) => typeInWords(one, document)).join(" or ");
  if (schema.type === "array") return `list of ${typeInWords(schema.items ?? {}, document)}`;
  return schema.type ?? "anything";
}

/** Such as `from 0 up to 2`, or nothing. The bounds may sit in one of several alternatives. */
export function rangeInWords(schema) {
  const own = [
    bound("from", schema.minimum),
    bound("above", schema.exclusiveMinimum),
    bound("up to", schema.maximum),
    bound("below", schema.exclusiveMaximum),
    bound("at least", schema.minLength, "character"),
    bound("at most", schema.maxLength, "character"),
    bound("at least", schema.minItems, "item"),
    bound("at most", schema.maxItems, "item"),
  ];
  const others = (schema.anyOf ?? []).map(rangeInWords);
  return [...own, ...others].filter((words) => words !== "").join(" ");
}

function bound(word, value, noun) {
  if (value === undefined) return "";
  return `${word} ${powerOfTwo(value) ?? value}${noun ? ` ${noun}${value === 1 ? "" : "s"}` : ""}`;
}

/** The ends of 64-bit integers: as numbers of JavaScript they would be shown rounded, and wrong. */
function powerOfTwo(value) {
  if (value === 2 ** 63) return "2⁶³ − 1";
  if (value === -(2 ** 63)) return "−2⁶³";
  return null;
}
