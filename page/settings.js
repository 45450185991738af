// From the form to the body of POST /generate. The server checks the fields, and its refusals are sentences; so a value
// that is not a number is sent as it was typed.

const NUMBERS = ["max_tokens", "temperature", "top_p", "top_k"];

/** JSON text. Fields left empty are left out, and have the server's defaults. */
export function requestBody(form) {
  const typed = new FormData(form);
  const body = { prompt: typed.get("prompt"), stream: true };
  addSampling(body, typed, NUMBERS);
  if (typed.has("ignore_eos")) body.ignore_eos = true;
  return withSeed(JSON.stringify(body), typed.get("seed").trim());
}

/** Into `body` go the numbers of these names, and a stop string for each line of its field. */
export function addSampling(body, typed, numbers) {
  for (const name of numbers) {
    const text = typed.get(name).trim();
    if (text !== "") body[name] = numberOrText(text);
  }
  const stop = typed.get("stop").split("\n").filter((line) => line !== "");
  if (stop.length > 0) body.stop = stop;
}

export function numberOrText(text) {
  return Number.isNaN(Number(text)) ? text : Number(text);
}

/** A seed has 64 bits and a JavaScript number 53: its digits go into the JSON as they stand. */
export function withSeed(json, seed) {
  if (seed === "") return json;
  const value = /^-?(0|[1-9]\d*)$/.test(seed) ? seed : JSON.stringify(seed);
  return `${json.slice(0, -1)},"seed":${value}}`;
}
