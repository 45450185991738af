// The page at `/`: ask, watch the tokens come, stop, and see what the server did meanwhile.

import { element } from "./dom.js";
import { generate } from "./generate.js";
import { counted, explain, explainStreamError } from "./plain_words.js";
import { Pulse, pause } from "./pulse.js";
import { newRequestId } from "./request_id.js";
import { requestBody } from "./settings.js";
import { TimeAxis } from "./time_axis.js";
import { Timeline, milliseconds } from "./timeline.js";
import { TokenView } from "./tokens.js";
import { Transcript } from "./transcript.js";

const WATCHED_AFTER_STOP_MS = 1200;

const find = (id) => document.getElementById(id);
const form = find("ask");
const answer = new TokenView(find("answer"));
const axis = new TimeAxis();
const timeline = new Timeline(find("timeline"), axis);
const pulse = new Pulse("", {
  sent: () => timeline.checkSent(),
  answered: (check) => {
    timeline.checkAnswered(check);
    showHealth(check);
  },
});
const transcript = new Transcript(find("messages"), {
  ended: showTranscriptEnd,
  unavailable: () => (find("transcript-off").hidden = false),
});
let connection = null; // the AbortController of the request that is open
let latest = null; // that of the request that was asked last: the instruments are its own

async function ask() {
  if (connection !== null) return;
  const requestId = newRequestId();
  const mine = new AbortController();
  clear();
  latest = mine;
  setOpen(mine);
  beginDrawing();
  pulse.start();
  transcript.watch(requestId);
  say("Asked. Waiting for the first token.");
  try {
    for await (const event of generate("", requestBody(form), requestId, mine.signal)) show(event);
  } catch (error) {
    if (!mine.signal.aborted) showError(explain(error, answer.count));
  }
  setOpen(null);
  if (mine.signal.aborted) await showThatTheEngineStops(mine);
  if (latest === mine) await pulse.stop();
  if (latest === mine) await pulse.check(); // the counters as they stand now that it is over
  if (latest === mine) finishDrawing();
}

function beginDrawing() {
  find("timeline").setAttribute("aria-busy", "true");
  axis.begin();
}

function finishDrawing() {
  find("timeline").setAttribute("aria-busy", "false");
  axis.finish();
}

/** Closing the connection is the whole of it: the server gets http.disconnect, and the engine an abort. */
function stop() {
  if (connection === null) return;
  connection.abort();
  timeline.left();
}

function show(event) {
  if ("token" in event) {
    if (answer.count === 0) say("Tokens are arriving.");
    answer.add(event.token, event.token_id);
    timeline.token();
  } else if ("error" in event) {
    showError({ sentence: explainStreamError(event.error, answer.count), lines: [] });
  } else {
    const why = event.finish_reason === "stop" ? "the text was complete" : "it reached max_tokens";
    say(`Done, because ${why}: ${counted(event.completion_tokens, "token")} in ${milliseconds(event.total_time_ms)}.`);
  }
}

async function showThatTheEngineStops(mine) {
  const read = counted(answer.count, "token");
  say(`Stopped after ${read}. Asking /health whether the engine has noticed.`);
  await pause(WATCHED_AFTER_STOP_MS / 6); // the step that was on its way may still be counted
  const before = await pulse.check();
  await pause(WATCHED_AFTER_STOP_MS);
  const after = await pulse.check();
  if (latest !== mine) return;
  if (before.health === null || after.health === null) {
    say(`Stopped after ${read}. The server does not answer /health.`);
  } else if (before.health.generated_tokens === after.health.generated_tokens) {
    const count = after.health.generated_tokens.toLocaleString("en");
    say(`Stopped after ${read}. The engine's counter stands still at ${count}: it has stopped too.`);
  } else {
    say(`Stopped after ${read}. The counter goes on: the engine is working for ${counted(after.health.running, "other")}.`);
  }
}

function clear() {
  answer.clear();
  find("problem").replaceChildren();
  find("transcript-off").hidden = true;
  find("transcript-end").replaceChildren();
}

function setOpen(controller) {
  connection = controller;
  const isOpen = controller !== null;
  // aria-disabled and not disabled: a disabled button loses the keyboard's focus.
  find("ask-button").setAttribute("aria-disabled", String(isOpen));
  find("stop-button").setAttribute("aria-disabled", String(!isOpen));
}

function say(text) {
  find("status").textContent = text;
}

function showError({ sentence, lines }) {
  say("");
  const list = lines.length > 0 ? [element("ul", {}, ...lines.map((line) => element("li", {}, line)))] : [];
  find("problem").replaceChildren(element("p", {}, sentence), ...list);
}

function showHealth({ health }) {
  const isWell = health?.status === "ok";
  find("server").className = isWell ? "well" : "unwell";
  find("server").textContent = health === null ? "no answer" : isWell ? health.model : health.status;
  for (const name of ["running", "waiting", "generated_tokens"]) {
    find(name).textContent = health === null ? "–" : health[name].toLocaleString("en");
  }
}

function showTranscriptEnd(requestId) {
  const link = element("a", { href: `transcript/${requestId}.json`, download: "" }, "Save as JSON");
  find("transcript-end").replaceChildren(link);
}

/** While the model loads, look again until it has; once it is there, only a request makes the pulse beat. */
async function waitUntilReady() {
  while ((await pulse.check()).health?.status !== "ok") await pause(1000);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
find("stop-button").addEventListener("click", stop);
find("prompt").addEventListener("keydown", (event) => {
  // Enter asks, with Ctrl too; Shift+Enter is a line break, and so is any Enter that an input method still needs.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
setOpen(null);
waitUntilReady();
