// POST /generate, streamed: the one request that this page is about.

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

/**
 * The stream's events as objects: tokens, then a closing one or an error.
 *
 * `base` is the server's address, ending in a slash; `body` is JSON text. Aborting `signal` closes the connection, and
 * that is how the server learns that the client has left: there is no message for it.
 */
export async function* generate(base, body, requestId, signal) {
  const response = await fetch(`${base}generate`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Id": requestId },
    body,
    signal,
    cache: "no-store",
  });
  if (!response.ok) throw await refusal(response);
  for await (const data of serverSentEvents(response.body)) {
    if (data === "[DONE]") return;
    signal.throwIfAborted(); // events that came in the same chunk are not told to somebody who has left
    yield JSON.parse(data);
  }
  throw new BrokenOff();
}

async function refusal(response) {
  const answer = await response.json().catch(() => ({}));
  return new Refused(response.status, answer.detail, response.headers.get("Retry-After"));
}
