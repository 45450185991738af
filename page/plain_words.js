// What went wrong, for a reader who has never seen a status code.

import { BrokenOff, Refused } from "./generate.js";

/** A sentence, and one more line for each problem. */
export function explain(error, tokens) {
  if (error instanceof Refused) return explainRefusal(error);
  if (error instanceof BrokenOff) {
    return { sentence: `The connection broke off after ${counted(tokens, "token")}, before the answer's end.`, lines: [] };
  }
  if (error instanceof TypeError) {
    return { sentence: "The server cannot be reached. Is it still running?", lines: [] };
  }
  return { sentence: `Something unexpected happened: ${error.message}`, lines: [] };
}

/** An error that came inside the stream, when a status code could no longer be sent. */
export function explainStreamError({ message, type }, tokens) {
  const after = `after ${counted(tokens, "token")}`;
  if (type === "shutdown") return `The server is shutting down and ended the answer ${after}.`;
  return `The engine failed ${after}: ${message}`;
}

export function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

function explainRefusal({ status, detail, retryAfter }) {
  if (status === 422 && Array.isArray(detail)) {
    return { sentence: "The server cannot take this request (422):", lines: detail.map(problem) };
  }
  const said = typeof detail === "string" ? ended(detail) : "It gave no reason.";
  if (status !== 503 && retryAfter === null) {
    return { sentence: `The server refused the request (${status}). ${said}`, lines: [] };
  }
  const what = status === 503 ? "takes no request just now" : "refused the request";
  const wait = retryAfter === null ? "in a moment" : `in ${counted(Number(retryAfter), "second")}`;
  return { sentence: `The server ${what} (${status}). ${said} Try again ${wait}.`, lines: [] };
}

/** A sentence with its full stop. */
function ended(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

function problem({ loc, msg, input }) {
  const field = loc.filter((part) => part !== "body").join(", ");
  const came = ["string", "number", "boolean"].includes(typeof input) ? ` It got ${JSON.stringify(input)}.` : "";
  return `${field ? `${field}: ` : ""}${ended(msg)}${came}`;
}
