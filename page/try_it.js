// Sends a request as it stands in the form, and shows the answer as it comes: head first, then each event of a stream.

import { curl, python } from "./commands.js";
import { element } from "./dom.js";
import { keyHeaders } from "./key.js";
import { serverSentEvents } from "./sse.js";

const NAME = /\{(\w+)\}/g;

export function tryIt(path, method, example) {
  const body = example === undefined ? null : bodyField(path, example);
  const names = [...path.matchAll(NAME)].map((found) =>
    element("input", { "aria-label": `${found[1]} in ${path}`, placeholder: found[1] }),
  );
  const commands = element("div", { class: "commands" });
  const send = element("button", { class: "primary" }, "Send");
  const stop = element("button", { type: "button", "aria-disabled": "true" }, "Stop");
  const status = element("p", { role: "status" });
  const output = element("pre", { class: "output", tabindex: "0", "aria-label": `Answer of ${path}` });
  const form = element(
    "form",
    { class: "try", "aria-label": `Try ${path}` },
    element("h3", {}, "Try it"),
    ...names,
    ...(body ? [body] : []),
    element("details", {}, element("summary", {}, "The same elsewhere"), commands),
    element("div", { class: "buttons" }, send, ...(body ? [stop] : []), status),
    output,
  );
  const text = () => body?.querySelector("textarea").value;
  const target = () => names.reduce((rest, field) => rest.replace(`{${field.placeholder}}`, () => field.value), path);
  let connection = null;

  form.addEventListener("input", showCommands);
  showCommands();

  function showCommands() {
    const base = new URL(".", location.href).href;
    const lines = [curl(base, target(), method, text()), python(base, path, method, text())];
    commands.replaceChildren(...lines.filter((line) => line !== null).map((line) => element("pre", { tabindex: "0" }, line)));
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (connection !== null) return;
    connection = new AbortController();
    stop.setAttribute("aria-disabled", "false");
    output.textContent = "";
    status.textContent = "Sent.";
    try {
      const response = await fetch(target().slice(1), request(method, text(), connection.signal));
      status.textContent = `${response.status} ${response.statusText}`;
      await showAnswer(response, output);
    } catch (error) {
      status.textContent = connection.signal.aborted ? "Stopped." : `No answer: ${error.message}`;
    }
    connection = null;
    stop.setAttribute("aria-disabled", "true");
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") connection?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stop.addEventListener("click", () => connection?.abort());
  return form;
}

function bodyField(path, example) {
  const text = element("textarea", { rows: "5", spellcheck: "false" });
  text.value = JSON.stringify(example, null, 2);
  return element("label", {}, `JSON for ${path}`, text);
}

function request(method, body, signal) {
  const headers = { ...keyHeaders(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  return { method: method.toUpperCase(), headers, body, signal, cache: "no-store" };
}

async function showAnswer(response, output) {
  for (const name of ["content-type", "x-request-id", "retry-after"]) {
    const value = response.headers.get(name);
    if (value !== null) output.append(`${name}: ${value}\n`);
  }
  output.append("\n");
  if (response.headers.get("content-type")?.startsWith("text/event-stream")) {
    for await (const data of serverSentEvents(response.body)) {
      output.append(element("span", { class: "event" }, `data: ${data}\n`));
    }
  } else {
    output.append(readable(await response.text()));
  }
}

function readable(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
