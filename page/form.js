// What the forms of both asking pages share: which buttons can be used, and where words to the reader go.

import { element } from "./dom.js";

const find = (id) => document.getElementById(id);

export function setOpen(isOpen) {
  // aria-disabled and not disabled: a disabled button loses the keyboard's focus.
  find("ask-button").setAttribute("aria-disabled", String(isOpen));
  find("stop-button").setAttribute("aria-disabled", String(!isOpen));
}

export function say(text) {
  find("status").textContent = text;
}

export function showProblem({ sentence, lines }) {
  say("");
  const list = lines.length > 0 ? [element("ul", {}, ...lines.map((line) => element("li", {}, line)))] : [];
  find("problem").replaceChildren(element("p", {}, sentence), ...list);
}

export function clearProblem() {
  find("problem").replaceChildren();
}

/** Enter in the prompt asks, Escape anywhere stops. */
export function bindKeys(ask, stop) {
  find("ask").addEventListener("submit", (event) => {
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
}
