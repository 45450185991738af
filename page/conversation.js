// A conversation: its turns as the API wants them, kept in this browser so that a reload loses nothing.
//
// Each tab keeps its own. A new tab goes on with the one that any tab has changed last.

import { keep, keptJson } from "./storage.js";

const NAME = "conversation";

export class Conversation {
  /** `changed` is called after each change. */
  constructor(changed) {
    this.changed = changed;
    this.turns = keptJson("sessionStorage", NAME, areTurns, keptJson("localStorage", NAME, areTurns, []));
    if (this.turns.length > 0 && isEmpty(this.turns.at(-1))) this.turns.pop(); // the page was left before it came
    this.isKept = true; // for a reload
  }

  add(turn) {
    this.turns.push(turn);
    this.#save();
    return turn;
  }

  /** Forget a turn and all that follow. */
  cut(index) {
    this.turns.length = index;
    this.#save();
  }

  /** Have these turns in the place of all that there are. */
  restore(turns) {
    this.turns = [...turns];
    this.#save();
  }

  edit(index, content) {
    this.turns[index].content = content;
    this.#save();
  }

  /** Keep what a turn has become. */
  keep() {
    this.#save();
  }

  clear() {
    this.cut(0);
  }

  /** The messages of a request; what only the page knows of a turn stays here. */
  messages(system) {
    const before = system.trim() === "" ? [] : [{ role: "system", content: system }];
    return [...before, ...this.turns.map(message)];
  }

  #save() {
    const text = JSON.stringify(this.turns);
    this.isKept = keep("sessionStorage", NAME, text);
    keep("localStorage", NAME, text);
    this.changed();
  }
}

/** Whether nothing has come of an answer. */
export function isEmpty(turn) {
  return turn.content === "" && !turn.reasoning && !turn.tool_calls;
}

function areTurns(value) {
  return Array.isArray(value) && value.every((turn) => typeof turn?.role === "string" && typeof turn.content === "string");
}

function message({ role, content, reasoning, tool_calls }) {
  const said = { role, content };
  if (reasoning) said.reasoning_content = reasoning;
  if (tool_calls?.length > 0) said.tool_calls = tool_calls;
  return said;
}
