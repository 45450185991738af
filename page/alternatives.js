// The answer as tokens, each of which shows what else could have stood in its place: its log probabilities.

import { element } from "./dom.js";
import { TokenView } from "./tokens.js";

export class Alternatives {
  constructor(tokens, table) {
    this.view = new TokenView(tokens);
    this.table = table;
    tokens.addEventListener("click", (event) => this.#show(event.target.closest(".token")));
    tokens.addEventListener("keydown", (event) => this.#move(event));
    this.clear();
  }

  get count() {
    return this.view.count;
  }

  clear() {
    this.view.clear();
    this.table.replaceChildren();
    this.entries = new Map();
    this.chosen = null;
  }

  /** Add a token of `logprobs.content`. */
  add(entry) {
    const box = this.view.add(entry.token, percent(entry.logprob));
    box.tabIndex = -1; // all tokens together are one stop of the Tab key
    box.setAttribute("role", "button");
    this.entries.set(box, entry);
  }

  /** The arrows choose the next token and the one before. */
  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const boxes = [...this.entries.keys()];
    const box = boxes[boxes.indexOf(this.chosen) + step];
    box?.focus();
    this.#show(box);
  }

  #show(box) {
    const entry = this.entries.get(box);
    if (entry === undefined) return;
    this.chosen?.classList.remove("chosen");
    this.chosen = box;
    box.classList.add("chosen");
    const rows = entry.top_logprobs.map((one) => this.#row(one, one.token === entry.token));
    if (!entry.top_logprobs.some((one) => one.token === entry.token)) rows.push(this.#row(entry, true));
    this.table.replaceChildren(...rows);
  }

  #row({ token, logprob }, isChosen) {
    const bar = element("span", { class: "bar" });
    bar.style.width = `${100 * Math.exp(logprob)}%`;
    const attributes = isChosen ? { "aria-current": "true" } : {};
    return element(
      "li",
      attributes,
      element("code", {}, JSON.stringify(token).slice(1, -1)),
      element("span", { class: "share" }, bar),
      element("span", { class: "number" }, percent(logprob)),
    );
  }
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share >= 0.1 ? `${share.toFixed(1)}%` : "under 0.1%";
}
