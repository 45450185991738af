// What the server does meanwhile, for a page with one request at a time: the timeline, the pulse of /health, the
// counters, and the messages of the request.

import { element } from "./dom.js";
import { counted } from "./plain_words.js";
import { Pulse, pause } from "./pulse.js";
import { TimeAxis } from "./time_axis.js";
import { Timeline } from "./timeline.js";
import { Transcript } from "./transcript.js";

const WATCHED_AFTER_STOP_MS = 1200;
const find = (id) => document.getElementById(id);

export class Instruments {
  /** `say` tells the reader something. */
  constructor(say) {
    this.say = say;
    this.latest = null; // the request that the instruments belong to: the one that was asked last
    this.axis = new TimeAxis();
    this.timeline = new Timeline(find("timeline"), this.axis);
    this.pulse = new Pulse("", {
      sent: () => this.timeline.checkSent(),
      answered: (check) => {
        this.timeline.checkAnswered(check);
        showHealth(check);
      },
    });
    this.transcript = new Transcript(find("messages"), showTranscriptEnd);
  }

  begin(requestId) {
    this.latest = requestId;
    find("transcript-off").hidden = true;
    find("transcript-end").replaceChildren();
    find("timeline").setAttribute("aria-busy", "true");
    this.axis.begin();
    this.pulse.start();
    this.transcript.clear();
  }

  /** The answer has begun, so there is a transcript of it, if the server keeps any: /health tells. */
  async answered(requestId) {
    const { health } = await this.pulse.checking;
    if (this.latest !== requestId || health === null) return;
    if (health.transcript) this.transcript.watch(requestId);
    else find("transcript-off").hidden = false;
  }

  token() {
    this.timeline.token();
  }

  left() {
    this.timeline.left();
  }

  /** The request is over; after a stop, watch whether the engine has stopped too. */
  async finish(requestId, wasStopped, tokens) {
    if (wasStopped) await this.#showThatTheEngineStops(requestId, tokens);
    if (this.latest === requestId) await this.pulse.stop();
    if (this.latest === requestId) await this.pulse.check(); // the counters as they stand now that it is over
    if (this.latest !== requestId) return;
    find("timeline").setAttribute("aria-busy", "false");
    this.axis.finish();
  }

  /** While the model loads, look again until it has; once it is there, only a request makes the pulse beat. */
  async waitUntilReady() {
    while ((await this.pulse.check()).health?.status !== "ok") await pause(1000);
  }

  async #showThatTheEngineStops(requestId, tokens) {
    const read = counted(tokens, "token");
    this.say(`Stopped after ${read}. Asking /health whether the engine has noticed.`);
    await pause(WATCHED_AFTER_STOP_MS / 6); // the step that was on its way may still be counted
    const before = await this.pulse.check();
    await pause(WATCHED_AFTER_STOP_MS);
    const after = await this.pulse.check();
    if (this.latest !== requestId) return;
    if (before.health === null || after.health === null) {
      this.say(`Stopped after ${read}. The server does not answer /health.`);
    } else if (before.health.generated_tokens === after.health.generated_tokens) {
      const count = after.health.generated_tokens.toLocaleString("en");
      this.say(`Stopped after ${read}. The engine's counter stands still at ${count}: it has stopped too.`);
    } else {
      const others = counted(after.health.running, "other");
      this.say(`Stopped after ${read}. The counter goes on: the engine is working for ${others}.`);
    }
  }
}

function showHealth({ health }) {
  const isWell = health?.status === "ok";
  find("server").className = isWell ? "well" : "unwell";
  find("server").textContent = health === null ? "no answer" : isWell ? health.model : health.status;
  for (const name of ["running", "waiting", "generated_tokens"]) {
    find(name).textContent = health === null ? "–" : health[name].toLocaleString("en");
  }
}

function showTranscriptEnd(requestId) {
  const link = element("a", { href: `transcript/${requestId}.json`, download: "" }, "Save as JSON");
  find("transcript-end").replaceChildren(link);
}
