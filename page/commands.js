// A request as a reader would type it elsewhere: for curl, and for the API's own Python client where it has one.

const PYTHON = {
  "post /v1/chat/completions": ["openai", "OpenAI", "chat.completions.create", "v1"],
  "post /v1/completions": ["openai", "OpenAI", "completions.create", "v1"],
  "post /v1/responses": ["openai", "OpenAI", "responses.create", "v1"],
  "get /v1/chat/completions": ["openai", "OpenAI", "chat.completions.list", "v1"],
  "get /v1/models": ["openai", "OpenAI", "models.list", "v1"],
  "post /v1/messages": ["anthropic", "Anthropic", "messages.create", ""],
  "post /v1/messages/count_tokens": ["anthropic", "Anthropic", "messages.count_tokens", ""],
};

/** `base` is the server's address, ending in a slash; `body` is JSON text, or undefined. */
export function curl(base, path, method, body) {
  const address = `${base}${path.slice(1)}`;
  if (body === undefined) return method === "get" ? `curl ${address}` : `curl -X ${method.toUpperCase()} ${address}`;
  const quoted = compact(body).replaceAll("'", `'\\''`);
  return `curl -N ${address} -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}

/** A line for the API's Python client, or null if no client has a method for it. */
export function python(base, path, method, body) {
  const known = PYTHON[`${method} ${path}`];
  if (known === undefined) return null;
  const [module, name, call, prefix] = known;
  const client = `${name}(base_url=${JSON.stringify(`${base}${prefix}`)}, api_key="any")`;
  return `from ${module} import ${name}\n${client}.${call}(${argumentsOf(body)})`;
}

function argumentsOf(body) {
  if (body === undefined) return "";
  let fields;
  try {
    fields = JSON.parse(body);
  } catch {
    return "…";
  }
  const named = "model" in fields ? fields : { model: "the model's name", ...fields };
  return Object.entries(named)
    .map(([field, value]) => `${field}=${literal(value)}`)
    .join(", ");
}

/** JSON as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`);
  return `{${entries.join(", ")}}`;
}

function compact(body) {
  try {
    return JSON.stringify(JSON.parse(body));
  } catch {
    return body;
  }
}
