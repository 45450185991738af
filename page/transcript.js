// The messages of one request as they pass through the server, over EventSource.
//
// An EventSource asks again whenever its connection closes, for ever, unless it is told that this was the end: the
// server's `end` event says so here, and then it is closed. (A server that is asked again all the same answers 204,
// which ends it too.)

import { element } from "./dom.js";

const ARROWS = { scope: "●", receive: "→", send: "←" };

export class Transcript {
  constructor(table, ended) {
    this.table = table;
    this.ended = ended;
    this.source = null;
  }

  clear() {
    this.close();
    this.table.replaceChildren();
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  /** Show the messages of a request that the server has begun to answer: a transcript is kept from its first one. */
  watch(requestId) {
    const source = new EventSource(`transcript/${requestId}`);
    this.source = source;
    source.onmessage = (event) => this.#add(JSON.parse(event.data));
    source.addEventListener("end", () => {
      this.close();
      this.ended(requestId);
    });
  }

  #add(message) {
    const scroller = this.table.closest(".scroller");
    const isAtEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
    this.table.append(row(message));
    if (isAtEnd) scroller.scrollTop = scroller.scrollHeight;
  }
}

function row({ t_ms, direction, type, size, more_body, head }) {
  return element(
    "tr",
    { class: direction },
    element("td", { class: "number" }, t_ms.toFixed(1)),
    element("td", { class: "direction" }, `${ARROWS[direction] ?? "?"} ${direction}`),
    element("td", {}, type),
    element("td", { class: "number" }, String(size)),
    element("td", {}, more_body === undefined ? "" : String(more_body)),
    element("td", { class: "head" }, head.replace(/\r?\n/g, "↵")),
  );
}
