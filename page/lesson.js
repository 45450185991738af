// The page at `/lesson`: the same request to three servers at the same moment, on one scale.

import { Column } from "./column.js";
import { numberOrText } from "./settings.js";
import { TimeAxis } from "./time_axis.js";

const NAMES = { wsgi: "WSGI", starlette: "Starlette", raw_asgi: "Raw ASGI" };
const DESCRIPTIONS = {
  gunicorn: "raw_wsgi.py under gunicorn, one sync worker",
  wsgiref: "raw_wsgi.py under wsgiref, the standard library's server: one request at a time",
  starlette: "app.py under uvicorn",
  raw_asgi: "raw_asgi.py under uvicorn",
};
const EXPERIMENTS = {
  "ask-all": { count: 1, leaveAfter: null },
  "leave-early": { count: 1, leaveAfter: 5 },
  "send-eight": { count: 8, leaveAfter: null },
};

const find = (id) => document.getElementById(id);
const axis = new TimeAxis();
const columns = columnsOf(new URLSearchParams(location.search));
let open = null; // the AbortController of the experiment that is running

/** `?wsgi=8101,8102&…`: the ports of each server. Only numbers count, so the query can name no other machine. */
function columnsOf(query) {
  return Object.keys(NAMES).flatMap((door) => {
    const ports = (query.get(door) ?? "").split(",").filter((port) => /^\d{1,5}$/.test(port));
    if (ports.length === 0) return [];
    const bases = ports.map((port) => `${location.protocol}//${location.hostname}:${port}/`);
    const description = DESCRIPTIONS[door === "wsgi" ? query.get("wsgi_server") : door] ?? "raw_wsgi.py";
    return [new Column(NAMES[door], description, bases, axis)];
  });
}

async function run({ count, leaveAfter }) {
  if (open !== null) return;
  const controller = new AbortController();
  setOpen(controller);
  say("Waiting until all three are idle.");
  await Promise.all(columns.map((column) => column.prepare(count)));
  say("Running. Watch the health checks.");
  axis.begin();
  await Promise.all(columns.map((column) => column.run(count, leaveAfter, bodyOf, controller.signal)));
  axis.finish();
  setOpen(null);
  say(whoFroze());
}

/** ignore_eos, so that all streams are equally long; the same seeds for every server. */
function bodyOf(lane) {
  return JSON.stringify({
    prompt: find("prompt").value,
    max_tokens: numberOrText(find("max_tokens").value),
    seed: lane + 1,
    ignore_eos: true,
    stream: true,
  });
}

function whoFroze() {
  if (columns.some((column) => column.problems.length > 0)) return "Something went wrong; the columns say what.";
  const frozen = columns.filter((column) => column.froze).map((column) => `${column.name} (${column.slowest})`);
  if (frozen.length === 0) return "No server froze.";
  return `Froze: ${frozen.join(", ")}. ${frozen.length === columns.length ? "" : "The others answered all the time."}`;
}

function stop() {
  open?.abort();
}

function setOpen(controller) {
  open = controller;
  const isOpen = controller !== null;
  for (const id of Object.keys(EXPERIMENTS)) find(id).setAttribute("aria-disabled", String(isOpen));
  find("stop-button").setAttribute("aria-disabled", String(!isOpen));
}

function say(text) {
  find("status").textContent = text;
}

find("columns").append(...columns.map((column) => column.root));
find("no-servers").hidden = columns.length > 0;
find("controls").hidden = columns.length === 0;
for (const [id, experiment] of Object.entries(EXPERIMENTS)) {
  find(id).addEventListener("click", () => run(experiment));
}
find("stop-button").addEventListener("click", stop);
find("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
setOpen(null);
