// The page at `/prompt`: give a text to continue, watch the tokens come, stop, and see what the server did meanwhile.

import { bindKeys, clearProblem, say, setOpen, showProblem } from "./form.js";
import { generate } from "./generate.js";
import { Instruments } from "./instruments.js";
import { bindKey } from "./key.js";
import { counted, explain, explainStreamError } from "./plain_words.js";
import { newRequestId } from "./request_id.js";
import { requestBody } from "./settings.js";
import { milliseconds } from "./timeline.js";
import { TokenView } from "./tokens.js";

const form = document.getElementById("ask");
const answer = new TokenView(document.getElementById("answer"));
const instruments = new Instruments(say);
let connection = null; // the AbortController of the request that is open

async function ask() {
  if (connection !== null) return;
  const requestId = newRequestId();
  const mine = new AbortController();
  const request = { id: requestId, signal: mine.signal, answered: () => instruments.answered(requestId) };
  answer.clear();
  clearProblem();
  connection = mine;
  setOpen(true);
  instruments.begin(requestId);
  say("Asked. Waiting for the first token.");
  try {
    for await (const event of generate("", requestBody(form), request)) show(event);
  } catch (error) {
    if (!mine.signal.aborted) showProblem(explain(error, answer.count));
  }
  connection = null;
  setOpen(false);
  await instruments.finish(requestId, mine.signal.aborted, answer.count);
}

/** Closing the connection is the whole of it: the server gets http.disconnect, and the engine an abort. */
function stop() {
  if (connection === null) return;
  connection.abort();
  instruments.left();
}

function show(event) {
  if ("token" in event) {
    if (answer.count === 0) say("Tokens are arriving.");
    answer.add(event.token, `token ${event.token_id}`);
    instruments.token();
  } else if ("error" in event) {
    showProblem({ sentence: explainStreamError(event.error, answer.count), lines: [] });
  } else {
    const why = event.finish_reason === "stop" ? "the text was complete" : "it reached max_tokens";
    say(`Done, because ${why}: ${counted(event.completion_tokens, "token")} in ${milliseconds(event.total_time_ms)}.`);
  }
}

bindKeys(ask, stop);
bindKey(document.getElementById("api-key"));
setOpen(false);
instruments.waitUntilReady();
