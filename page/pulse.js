// Asks /health again and again, one question at a time, and says how long each answer took.

const EVERY_MS = 250;

export class Pulse {
  constructor(base, { sent = () => {}, answered = () => {} } = {}) {
    this.address = new URL(`${base}health`, document.baseURI).href;
    this.worker = new Worker(new URL("health_worker.js", import.meta.url));
    this.sent = sent;
    this.answered = answered;
    this.isBeating = false;
    this.beating = Promise.resolve();
    this.checking = Promise.resolve(); // of the latest check
  }

  start() {
    if (this.isBeating) return;
    this.isBeating = true;
    this.beating = this.beating.then(() => this.#beat());
  }

  /** Resolves when the last answer has come, which may take as long as the server is frozen. */
  stop() {
    this.isBeating = false;
    return this.beating;
  }

  /** One check: `health` is null when there was no answer. */
  check() {
    this.checking = this.checking.then(() => this.#check());
    return this.checking;
  }

  async #check() {
    this.sent();
    const check = await this.#ask();
    this.answered(check);
    return check;
  }

  #ask() {
    this.worker.postMessage(this.address);
    return new Promise((resolve) => (this.worker.onmessage = ({ data }) => resolve(data)));
  }

  async #beat() {
    while (this.isBeating) {
      await this.check();
      await pause(EVERY_MS);
    }
  }
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
