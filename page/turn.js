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
    this.isBusy = false; // while an answer comes, no turn can be changed
    this.editor = null; // the text field, while the turn is edited
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
    edit.addEventListener("click", () => this.isBusy || this.edit());
    this.buttons.replaceChildren(edit);
    if (this.turn.role === "assistant") {
      const again = element("button", { type: "button" }, "Regenerate");
      again.addEventListener("click", () => this.isBusy || this.actions.again());
      this.buttons.append(again);
    }
    this.setBusy(this.isBusy);
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    for (const button of this.buttons.children) button.setAttribute("aria-disabled", String(isBusy));
  }

  /** Draw the turn as it is now; while it grows, as often as the screen is drawn at most. */
  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  /** Draw the turn as it is now. What is being typed into it stays. */
  draw() {
    const { role, content, reasoning, tool_calls: calls } = this.turn;
    const drawn = role === "assistant" ? markdown(content ?? "") : [asTyped(content)];
    if (this.editor === null) this.content.replaceChildren(...drawn);
    this.reasoning.fill(reasoning ? [element("p", { class: "as-typed" }, reasoning)] : []);
    this.calls.replaceChildren(...(calls ?? []).map(callView));
  }

  edit() {
    const opener = document.activeElement;
    const text = element("textarea", { rows: "4", "aria-label": "Edit this turn", spellcheck: "false" });
    text.value = this.turn.content ?? "";
    const save = element("button", { type: "button", class: "primary" }, this.turn.role === "user" ? "Ask again" : "Keep");
    const cancel = element("button", { type: "button" }, "Cancel");
    save.addEventListener("click", () => {
      if (this.isBusy) return;
      this.endEdit(opener);
      this.actions.edit(text.value);
    });
    cancel.addEventListener("click", () => this.endEdit(opener));
    text.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.endEdit(opener);
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      save.click();
    });
    this.editor = text;
    this.content.replaceChildren(text);
    this.buttons.replaceChildren(save, cancel);
    text.focus();
  }

  /** Show the turn again. The focus returns to what began the edit, so that the keyboard goes on from there. */
  endEdit(opener) {
    this.editor = null;
    this.addButtons();
    this.draw();
    (opener.isConnected ? opener : this.buttons.firstChild).focus();
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
