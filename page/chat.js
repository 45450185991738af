// The page at `/`: a conversation, and what the server did for its last answer.

import { Alternatives } from "./alternatives.js";
import { StreamError, answer, chatBody } from "./chat_request.js";
import { Conversation, isEmpty } from "./conversation.js";
import { bindKeys, clearProblem, say, setOpen, showProblem } from "./form.js";
import { Instruments } from "./instruments.js";
import { bindKey } from "./key.js";
import { counted, explain, explainStreamError } from "./plain_words.js";
import { newRequestId } from "./request_id.js";
import { keep, keptJson } from "./storage.js";
import { TurnView } from "./turn.js";

const find = (id) => document.getElementById(id);
const form = find("ask");
const prompt = find("prompt");
const tokens = new Alternatives(find("tokens"), find("alternatives"));
const instruments = new Instruments(say);
const conversation = new Conversation(showTurns);
let views = []; // a TurnView for each turn
let connection = null; // the AbortController of the request that is open
let isLeaving = false; // whether the page is being left, which closes the connection

const REASONS = {
  stop: "the answer was complete",
  length: "it reached its limit of tokens",
  tool_calls: "it calls a tool",
};

function ask() {
  const text = prompt.value;
  if (connection !== null || text.trim() === "") return;
  const before = [...conversation.turns];
  prompt.value = "";
  conversation.add({ role: "user", content: text });
  continueConversation((hasFailed) => {
    if (!hasFailed) return;
    conversation.restore(before);
    prompt.value ||= text; // to be asked again, or otherwise
  });
}

/**
 * Ask for the next turn, which must be the model's. If nothing of it comes, `unanswered(hasFailed)` is called, which
 * may have failed or been stopped.
 */
async function continueConversation(unanswered) {
  const requestId = newRequestId();
  const mine = new AbortController();
  const request = { id: requestId, signal: mine.signal, answered: () => instruments.answered(requestId) };
  let body;
  clearProblem();
  isLeaving = false;
  try {
    body = chatBody(form, conversation.messages(find("system").value));
  } catch (error) {
    showProblem({ sentence: `The tools are not JSON: ${error.message}`, lines: [] });
    unanswered(true);
    return;
  }
  const turn = conversation.add({ role: "assistant", content: "" });
  const view = views.at(-1);
  connection = mine;
  tokens.clear();
  setBusy(true);
  instruments.begin(requestId);
  say("Asked. Waiting for the first token.");
  const heard = (entries) => {
    if (tokens.count === 0 && entries.length > 0) say("Tokens are arriving.");
    for (const entry of entries) {
      tokens.add(entry);
      instruments.token();
    }
    view.drawSoon();
  };
  try {
    const { reason, usage } = await answer(turn, body, request, heard);
    say(`Done, because ${REASONS[reason] ?? reason}: ${counted(usage?.completion_tokens ?? tokens.count, "token")}.`);
  } catch (error) {
    const hasFailed = !mine.signal.aborted;
    if (hasFailed) showFailure(error);
    if (isEmpty(turn) && conversation.turns.includes(turn) && !isLeaving) unanswered(hasFailed);
  }
  connection = null;
  setBusy(false);
  conversation.keep();
  await instruments.finish(requestId, mine.signal.aborted, tokens.count);
}

/** Closing the connection is the whole of it: the server gets http.disconnect, and the engine an abort. */
function stop() {
  if (connection === null) return;
  connection.abort();
  instruments.left();
}

function showFailure(error) {
  if (error instanceof StreamError) {
    showProblem({ sentence: explainStreamError({ message: error.message }, tokens.count), lines: [] });
  } else showProblem(explain(error, tokens.count));
}

/** Show that an answer comes: nothing else can be asked, and a screen reader waits until it is whole. */
function setBusy(isBusy) {
  setOpen(isBusy);
  find("conversation").setAttribute("aria-busy", String(isBusy));
  for (const view of views) view.setBusy(isBusy);
}

/** Make as many views as there are turns; those that are there already are drawn again. */
function showTurns() {
  const { turns } = conversation;
  const isSame = (view, index) => view.turn === turns[index];
  const kept = views.findIndex((view, index) => !isSame(view, index));
  views = kept === -1 ? views.slice(0, turns.length) : views.slice(0, kept);
  for (const view of views) view.draw();
  for (let index = views.length; index < turns.length; index++) views.push(makeView(turns[index], index));
  find("conversation").replaceChildren(...views.map((view) => view.root));
  find("empty").hidden = turns.length > 0;
  find("unkept").hidden = conversation.isKept;
}

function makeView(turn, index) {
  return new TurnView(turn, {
    edit: (text) => editTurn(index, text),
    again: () => askAgain(index),
  });
}

/** A question that is changed is asked again; an answer that is changed stands as it was changed. */
function editTurn(index, text) {
  conversation.edit(index, text);
  if (conversation.turns[index].role !== "user") return;
  conversation.cut(index + 1);
  const before = [...conversation.turns];
  continueConversation((hasFailed) => hasFailed && conversation.restore(before));
}

/** Ask for another answer in the place of one and of all that follow, which stay if there is none. */
function askAgain(index) {
  const before = [...conversation.turns];
  conversation.cut(index);
  continueConversation(() => conversation.restore(before));
}

function save() {
  const content = JSON.stringify({ messages: conversation.messages(find("system").value) }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

function startOver() {
  stop();
  conversation.clear();
  tokens.clear();
  clearProblem();
  say("");
  prompt.focus();
}

/** The arrow up in an empty prompt edits the last question. */
function editLastQuestion(event) {
  if (event.key !== "ArrowUp" || prompt.value !== "" || connection !== null) return;
  const index = conversation.turns.findLastIndex((turn) => turn.role === "user");
  if (index === -1) return;
  event.preventDefault();
  views[index].edit();
}

/** The settings, the system prompt too, survive a reload; the key does not leave its tab. */
function keepSettings() {
  const kept = () => keptJson("localStorage", "settings", (value) => value instanceof Object, {});
  const atFirst = kept();
  for (const field of form.querySelectorAll("details [name]")) {
    field.value = atFirst[field.name] ?? field.value;
    field.addEventListener("input", () => {
      // Read again, as another tab may have changed another of them.
      keep("localStorage", "settings", JSON.stringify({ ...kept(), [field.name]: field.value }));
    });
  }
}

keepSettings();
bindKeys(ask, stop);
bindKey(find("api-key"));
prompt.addEventListener("keydown", editLastQuestion);
find("save-button").addEventListener("click", save);
find("new-button").addEventListener("click", startOver);
window.addEventListener("beforeunload", () => (isLeaving = true));
// As much of an answer as has come stays. Without one, another tab may have kept something newer.
window.addEventListener("pagehide", () => connection !== null && conversation.keep());
showTurns();
setBusy(false);
instruments.waitUntilReady();
