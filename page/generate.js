// A streamed POST: to /generate, or to any other path whose stream is JSON events and a [DONE].

import { keyHeaders } from "./key.js";
import { serverSentEvents } from "./sse.js";

/** The server answered, and the answer is no. `detail` is a sentence, or the list of problems of a 422. */
export class Refused extends Error {
  constructor(status, detail, retryAfter) {
    super(`refused with ${status}`);
    Object.assign(this, { status, detail, retryAfter });
  }
}

/** The stream ended before it said [DONE]. */
export class BrokenOff extends Error {}

/** The stream of POST /generate: tokens, then a closing event or an error. */
export function generate(base, body, request) {
  return streamed(`${base}generate`, body, request);
}

/**
 * A stream's events as objects.
 *
 * `address` is where to; `body` is JSON text. A request has an `id`. Aborting its `signal` closes the connection, and
 * that is how the server learns that the client has left: there is no message for it. `answered` is called when the
 * headers of the answer are there, so the server knows the request by its id.
 */
export async function* streamed(address, body, { id, signal, answered = () => {} }) {
  const response = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Id": id, ...keyHeaders() },
    body,
    signal,
    cache: "no-store",
  });
  answered();
  if (!response.ok) throw await refusal(response);
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    signal.throwIfAborted(); // events that came in the same chunk are not told to a reader who has left
    yield JSON.parse(data);
  }
  throw new BrokenOff();
}

async function refusal(response) {
  const answer = await response.json().catch(() => ({}));
  return new Refused(response.status, answer.detail ?? answer.error?.message, response.headers.get("Retry-After"));
}
