// A conversation: its turns as the API wants them, kept in this browser so that a reload loses nothing.

const NAME = "conversation";

export class Conversation {
  /** `changed` is called after each change. */
  constructor(changed) {
    this.changed = changed;
    this.turns = [];
    try {
      this.turns = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    } catch {
      // Something else has written there: begin with an empty conversation.
    }
    if (!Array.isArray(this.turns)) this.turns = [];
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
    localStorage.setItem(NAME, JSON.stringify(this.turns));
    this.changed();
  }
}

function message({ role, content, reasoning, tool_calls }) {
  const said = { role, content };
  if (reasoning) said.reasoning_content = reasoning;
  if (tool_calls?.length > 0) said.tool_calls = tool_calls;
  return said;
}
