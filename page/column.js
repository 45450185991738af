// One server of the lesson: its streams, its timeline, its health, and what is to be said about it afterwards.

import { element } from "./dom.js";
import { generate } from "./generate.js";
import { counted, explain, explainStreamError } from "./plain_words.js";
import { Pulse, pause } from "./pulse.js";
import { newRequestId } from "./request_id.js";
import { SLOW_MS, Timeline, milliseconds } from "./timeline.js";
import { TokenView } from "./tokens.js";

const PATIENCE_MS = 60_000;
const WATCHED_AFTER_LEAVING_MS = 1000;

export class Column {
  /** `bases` are the addresses of one and the same server. */
  constructor(name, description, bases, axis) {
    this.name = name;
    this.bases = bases;
    this.streams = element("div", { class: "streams" });
    this.verdict = element("p", { class: "verdict" });
    const drawings = element("div", { class: "timeline" });
    this.root = element(
      "section",
      { class: "column", "aria-label": name },
      element("h2", {}, name),
      element("p", { class: "hint" }, description),
      this.streams,
      drawings,
      this.verdict,
    );
    this.timeline = new Timeline(drawings, axis);
    this.pulse = new Pulse(bases.at(-1), {
      sent: () => this.timeline.checkSent(),
      answered: (check) => this.timeline.checkAnswered(check),
    });
    this.#makeViews(1);
  }

  /** Wait until the server has nothing left to do from before, and read its counter. */
  async prepare(count) {
    this.#makeViews(count);
    this.verdict.textContent = "";
    this.madeBefore = (await this.#untilIdle()).health?.generated_tokens;
  }

  /** Send `count` requests at once; leave each after `leaveAfter` tokens, if that is a number. */
  async run(count, leaveAfter, bodyOf, signal) {
    this.firstTokens = [];
    this.lasted = [];
    this.problems = [];
    if (this.madeBefore !== undefined) this.timeline.sample(0, this.madeBefore);
    this.pulse.start();
    await Promise.all(this.views.map((view, lane) => this.#stream(view, lane, count, leaveAfter, bodyOf(lane), signal)));
    if (leaveAfter !== null) await pause(WATCHED_AFTER_LEAVING_MS);
    await this.pulse.stop();
    const { health } = await this.#untilIdle();
    this.made = health === null ? null : health.generated_tokens - this.madeBefore;
    this.verdict.textContent = this.#inWords(count, leaveAfter);
    this.verdict.classList.toggle("froze", this.froze);
  }

  /** Whether a health check had to wait for a stream: for half of the shortest one at least, and not just a moment. */
  get froze() {
    return this.timeline.slowest >= Math.max(SLOW_MS, Math.min(...this.lasted) / 2);
  }

  get slowest() {
    return milliseconds(this.timeline.slowest);
  }

  async #stream(view, lane, lanes, leaveAfter, body, signal) {
    const connection = new AbortController();
    const ended = AbortSignal.any([connection.signal, signal]);
    // A browser opens at most six connections to one address, so the streams are dealt out to the server's addresses.
    const base = this.bases[lane % this.bases.length];
    let beganAt = this.timeline.axis.now();
    try {
      for await (const event of generate(base, body, { id: newRequestId(), signal: ended })) {
        if ("error" in event) this.problems.push(explainStreamError(event.error, view.count));
        if (!("token" in event)) continue;
        if (view.count === 0) this.firstTokens.push((beganAt = this.timeline.axis.now()));
        view.add(event.token, `token ${event.token_id}`);
        this.timeline.token(lane, lanes);
        if (view.count === leaveAfter) {
          connection.abort();
          this.timeline.left();
        }
      }
    } catch (error) {
      if (!ended.aborted) this.#note(explain(error, view.count));
    }
    this.lasted.push(this.timeline.axis.now() - beganAt);
  }

  #note({ sentence, lines }) {
    this.problems.push([sentence, ...lines].join(" "));
  }

  async #untilIdle() {
    const giveUpAt = performance.now() + PATIENCE_MS;
    while (true) {
      const check = await this.pulse.check();
      const isIdle = check.health === null || check.health.running + check.health.waiting === 0;
      if (isIdle || performance.now() > giveUpAt) return check;
      await pause(100);
    }
  }

  #makeViews(count) {
    const boxes = Array.from({ length: count }, (_, lane) =>
      element("div", {
        class: count > 1 ? "tokens small" : "tokens",
        role: "region",
        "aria-label": `${this.name}, stream ${lane + 1}`,
        tabindex: "0",
      }),
    );
    this.streams.replaceChildren(...boxes);
    this.views = boxes.map((box) => new TokenView(box));
  }

  #inWords(count, leaveAfter) {
    if (this.problems.length > 0) return this.problems[0];
    const words = [
      this.froze
        ? `Froze: a health check waited ${this.slowest} for a stream.`
        : `Did not freeze: the slowest health check took ${this.slowest}.`,
    ];
    const read = this.views.reduce((sum, view) => sum + view.count, 0);
    if (leaveAfter !== null && this.made !== null) {
      const extra = this.made - read;
      words.push(`Left after ${counted(read, "token")}; the engine made ${this.made}, ${extra === 0 ? "none" : extra} of them for no reader.`);
    }
    if (count > 1 && this.firstTokens.length > 0) {
      words.push(`The last of ${this.firstTokens.length} first tokens came after ${milliseconds(this.firstTokens.at(-1))}.`);
    }
    return words.join(" ");
  }
}
