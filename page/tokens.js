// The answer as tokens: each in a box of its own, so that one sees where one ends and the next begins.
//
// The text of the boxes, read in order, is exactly the text of the answer; the marks for line breaks and for tokens
// without text are drawn by the style sheet and cannot be copied.

import { element } from "./dom.js";

const HELD_BACK = "No text yet: half a character, or what may become a stop string, is held back. The end of a text is such a token too.";

export class TokenView {
  constructor(container) {
    // The style sheet lays the box out from its end, so that it stays scrolled there without a line of script.
    this.text = element("div");
    container.replaceChildren(this.text);
    this.count = 0;
  }

  clear() {
    this.text.replaceChildren();
    this.count = 0;
  }

  /** Add a token; `title` is what is known of it besides its text. */
  add(text, title) {
    this.count += 1;
    const box = text === "" ? held(title) : element("span", { class: "token", title }, ...pieces(text));
    this.text.append(box);
    return box;
  }
}

function held(title) {
  return element("span", { class: "token held", title: `${title}. ${HELD_BACK}` });
}

function pieces(text) {
  return text
    .split(/(\r\n|\n|\r|\u2028|\u2029)/)
    .filter((piece) => piece !== "")
    .map((piece) => (/^[\r\n\u2028\u2029]/.test(piece) ? element("span", { class: "newline" }, piece) : piece));
}
