// One turn of the conversation on the page: what was said, what was thought, which tools were called, and what can be
// done about it.

import { element } from "./dom.js";
import { markdown } from "./markdown.js";

const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

export class TurnView {
  /** `actions` has `edit(text)` and `again()`. */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.reasoning = folded("Reasoning", "reasoning");
    this.content = element("div", { class: "content" });
    this.calls = element("div", { class: "calls" });
    this.buttons = element("div", { class: "turn-buttons" });
    this.root = element(
      "article",
      { class: `turn ${turn.role}`, "aria-label": NAMES[turn.role] ?? turn.role },
      element("h3", {}, NAMES[turn.role] ?? turn.role),
      this.reasoning.root,
      this.content,
      this.calls,
      this.buttons,
    );
    this.addButtons();
    this.draw();
  }

  addButtons() {
    const edit = element("button", { type: "button" }, "Edit");
    edit.addEventListener("click", () => this.edit());
    this.buttons.replaceChildren(edit);
    if (this.turn.role === "assistant") {
      const again = element("button", { type: "button" }, "Regenerate");
      again.addEventListener("click", () => this.actions.again());
      this.buttons.append(again);
    }
  }

  /** Draw the turn as it is now; while it grows, as often as the screen is drawn at most. */
  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const { role, content, reasoning, tool_calls: calls } = this.turn;
    this.content.replaceChildren(...(role === "assistant" ? markdown(content ?? "") : [asTyped(content)]));
    this.reasoning.fill(reasoning ? [element("p", { class: "as-typed" }, reasoning)] : []);
    this.calls.replaceChildren(...(calls ?? []).map(callView));
  }

  edit() {
    const text = element("textarea", { rows: "4", "aria-label": "Edit this turn", spellcheck: "false" });
    text.value = this.turn.content ?? "";
    const save = element("button", { type: "button", class: "primary" }, this.turn.role === "user" ? "Ask again" : "Keep");
    const cancel = element("button", { type: "button" }, "Cancel");
    const close = () => (this.addButtons(), this.draw());
    save.addEventListener("click", () => (close(), this.actions.edit(text.value)));
    cancel.addEventListener("click", close);
    text.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      save.click();
    });
    this.content.replaceChildren(text);
    this.buttons.replaceChildren(save, cancel);
    text.focus();
  }
}

function asTyped(text) {
  return element("p", { class: "as-typed" }, text ?? "");
}

function callView({ function: { name, arguments: given } }) {
  const view = folded(`Tool call: ${name}`, "call");
  view.fill([element("pre", {}, element("code", {}, pretty(given)))]);
  return view.root;
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** A part that is closed until it is opened, and not there while it is empty. */
function folded(title, kind) {
  const body = element("div");
  const root = element("details", { class: `folded ${kind}`, hidden: "" }, element("summary", {}, title), body);
  const fill = (children) => {
    body.replaceChildren(...children);
    root.hidden = children.length === 0;
  };
  return { root, fill };
}
