// A narrow drawing over time with a caption. Its lines are kept in milliseconds and parts of its height, and become
// pixels only when they are drawn, so that lines which fall on the same pixels are drawn once.

import { element, svgElement } from "./dom.js";

export class Strip {
  constructor(name) {
    this.kinds = new Map();
    this.value = element("span", { class: "value" });
    this.svg = svgElement("svg", { "aria-hidden": "true" });
    this.root = element("div", { class: "strip" }, element("p", {}, element("span", {}, name), this.value), this.svg);
  }

  /** Add a line through [milliseconds, height from 0 (top) to 1] points. The style sheet says how each kind looks. */
  add(kind, ...points) {
    const { lines } = this.#kind(kind);
    lines.push(points);
    this.isStale = true;
  }

  /** Let this be the only line of its kind; without points, there is none. */
  set(kind, ...points) {
    this.#kind(kind).lines = [];
    this.isStale = true;
    if (points.length > 0) this.add(kind, ...points);
  }

  say(text) {
    this.value.textContent = text;
  }

  clear() {
    for (const kind of this.kinds.keys()) this.set(kind);
    this.say("");
  }

  draw(span) {
    const { clientWidth, clientHeight } = this.svg;
    const scale = `${clientWidth} ${clientHeight} ${span}`;
    if (!this.isStale && scale === this.scale) return;
    const pixels = ([at, height]) => `${Math.round((2 * at * clientWidth) / span) / 2} ${(height * clientHeight).toFixed(1)}`;
    for (const { path, lines } of this.kinds.values()) {
      const drawn = new Set(lines.map((points) => `M${points.map(pixels).join("L")}`));
      path.setAttribute("d", [...drawn].join(""));
    }
    this.scale = scale;
    this.isStale = false;
  }

  #kind(name) {
    if (!this.kinds.has(name)) {
      const path = svgElement("path", { class: name });
      this.svg.append(path);
      this.kinds.set(name, { path, lines: [] });
    }
    return this.kinds.get(name);
  }
}
