// One clock and one scale for everything that is drawn over time, so that drawings can be compared by eye.

const SHORTEST = 500;
const FRAME_MS = 80; // enough for the eye; the thread has tokens to take in meanwhile

export class TimeAxis {
  constructor() {
    this.drawings = [];
    this.zero = performance.now();
    this.end = 0;
    this.shown = [0, SHORTEST];
    addEventListener("resize", () => this.#draw(...this.shown));
  }

  /** A drawing has clear() and draw(now, span), both in milliseconds since `begin`. */
  add(drawing) {
    this.drawings.push(drawing);
    drawing.draw(0, SHORTEST);
  }

  begin() {
    this.zero = performance.now();
    this.end = null;
    for (const drawing of this.drawings) drawing.clear();
    this.#frame(this.zero);
  }

  now() {
    return performance.now() - this.zero;
  }

  finish() {
    this.end = this.now();
    this.#draw(this.end, Math.max(this.end, SHORTEST));
  }

  #frame(drawnAt) {
    if (this.end !== null) return;
    const isDue = performance.now() - drawnAt >= FRAME_MS;
    if (isDue) this.#draw(this.now(), roundUp(this.now()));
    const latest = isDue ? performance.now() : drawnAt;
    requestAnimationFrame(() => this.#frame(latest));
  }

  #draw(now, span) {
    this.shown = [now, span];
    for (const drawing of this.drawings) drawing.draw(now, span);
  }
}

/** The next of 500, 1000, 2000, 5000, 10000 …: the scale jumps now and then instead of creeping all the time. */
function roundUp(milliseconds) {
  let decade = 100;
  while (true) {
    for (const factor of [1, 2, 5]) {
      if (factor * decade >= Math.max(milliseconds, SHORTEST)) return factor * decade;
    }
    decade *= 10;
  }
}
