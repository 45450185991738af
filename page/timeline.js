// What happened when: each token's arrival, each health check from question to answer, the engine's own counter.

import { element } from "./dom.js";
import { counted } from "./plain_words.js";
import { Strip } from "./strip.js";

/** A health check that took this long is drawn as a slow one. */
export const SLOW_MS = 500;

export class Timeline {
  constructor(container, axis) {
    this.axis = axis;
    this.tokens = new Strip("Tokens");
    this.health = new Strip("/health");
    this.counter = new Strip("Made by the engine");
    this.ticks = element("div", { class: "ticks", "aria-hidden": "true" });
    container.append(this.tokens.root, this.health.root, this.counter.root, this.ticks);
    this.clear();
    axis.add(this);
  }

  clear() {
    for (const strip of [this.tokens, this.health, this.counter]) strip.clear();
    this.arrivals = [];
    this.gaps = [];
    this.lanes = 1;
    this.slowest = 0;
    this.samples = [];
    this.pendingSince = null;
  }

  /** A token arrived. Streams that run at the same time have a lane each. */
  token(lane = 0, lanes = 1) {
    const now = this.axis.now();
    const top = lane / lanes + (lanes > 1 ? 0.02 : 0.1);
    const bottom = (lane + 1) / lanes - (lanes > 1 ? 0.02 : 0.1);
    if (this.arrivals.length === 0) this.tokens.set("prefill", [0, 0.5], [now, 0.5]);
    this.tokens.add("arrival", [now, top], [now, bottom]);
    if (this.arrivals.length > 0) this.gaps.push(now - this.arrivals.at(-1));
    this.arrivals.push(now);
    this.lanes = lanes;
  }

  left() {
    const now = this.axis.now();
    this.tokens.add("left", [now, 0], [now, 1]);
    this.counter.add("left", [now, 0], [now, 1]);
  }

  checkSent() {
    this.pendingSince = this.axis.now();
  }

  checkAnswered({ ms, health }) {
    if (this.pendingSince === null) return; // it was asked before this drawing began
    const sent = this.pendingSince;
    const answered = sent + ms;
    this.pendingSince = null;
    this.slowest = Math.max(this.slowest, ms);
    const kind = health === null ? "failed" : ms >= SLOW_MS ? "slow" : "answered";
    this.health.add(kind, [sent, 0.5], [answered, 0.5]);
    this.health.say(`${milliseconds(ms)}, slowest ${milliseconds(this.slowest)}`);
    if (health !== null) this.sample(answered, health.generated_tokens);
  }

  draw(now, span) {
    const waited = this.pendingSince === null ? 0 : now - this.pendingSince;
    if (waited > 0) this.health.set("waiting", [this.pendingSince, 0.5], [now, 0.5]);
    else this.health.set("waiting");
    if (waited >= SLOW_MS) this.health.say(`no answer for ${milliseconds(waited)}`);
    this.tokens.say(this.inWords());
    for (const strip of [this.tokens, this.health, this.counter]) strip.draw(span);
    this.#drawTicks(span);
  }

  /** The gaps in numbers: what the drawing shows. */
  inWords() {
    if (this.arrivals.length === 0) return "";
    const words = [`first after ${milliseconds(this.arrivals[0])}`, counted(this.arrivals.length, "token")];
    if (this.lanes === 1 && this.gaps.length > 1) {
      const sorted = this.gaps.toSorted((a, b) => a - b);
      words.push(`median gap ${milliseconds(sorted[sorted.length >> 1])}`, `longest ${milliseconds(sorted.at(-1))}`);
    }
    return words.join(" · ");
  }

  /** The engine's counter as a line: where it is level, the engine makes nothing. */
  sample(at, count) {
    this.samples.push([at, count]);
    const first = this.samples[0][1];
    const made = Math.max(count - first, 1);
    this.counter.set("made", ...this.samples.map(([x, y]) => [x, 0.9 - (0.8 * (y - first)) / made]));
    this.counter.say(`${first.toLocaleString("en")} → ${count.toLocaleString("en")}`);
  }

  #drawTicks(span) {
    if (span === this.span) return;
    this.span = span;
    const step = [50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5].find((one) => span / one <= 5) ?? span;
    const ticks = [];
    for (let at = 0; at <= span; at += step) {
      const tick = element("span", {}, at === 0 ? "0" : `${at / 1000} s`);
      tick.style.left = `${(100 * at) / span}%`;
      ticks.push(tick);
    }
    this.ticks.replaceChildren(...ticks);
  }
}

export function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms >= 10_000 ? 0 : 1)} s`;
  return `${ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`;
}
