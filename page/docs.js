// The page at `/docs`: openapi.json, to read and to try. What it says of the service is all in that document.

import { element } from "./dom.js";
import { nameOf, rangeInWords, resolve, typeInWords } from "./schema.js";
import { tryIt } from "./try_it.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

async function main() {
  const document_ = await (await fetch("openapi.json")).json();
  const { info, paths } = document_;
  find("title").textContent = `${info.title}: the API`;
  find("description").textContent = info.description ?? "";
  for (const [path, item] of Object.entries(paths)) {
    for (const method of METHODS.filter((one) => one in item)) {
      find("operations").append(operation(path, method, item[method], document_));
      find("contents").append(element("li", {}, element("a", { href: `#${item[method].operationId}` }, badge(method), breakable(path))));
    }
  }
}

function operation(path, method, described, document_) {
  const body = described.requestBody?.content["application/json"];
  return element(
    "section",
    { class: "operation", id: described.operationId, "aria-label": `${method.toUpperCase()} ${path}` },
    element("h2", {}, badge(method), path),
    ...paragraph(described.summary),
    ...paragraph(described.description),
    ...parameters("Path", "path", described.parameters ?? [], document_),
    ...parameters("Query", "query", described.parameters ?? [], document_),
    ...parameters("Headers", "header", described.parameters ?? [], document_),
    ...(body ? [element("h3", {}, "Body"), fields(body.schema, document_)] : []),
    tryIt(path, method, body?.example),
    element("h3", {}, "Answers"),
    ...Object.entries(described.responses).map(([status, response]) => answer(status, response, document_)),
  );
}

/** A path whose line breaks come before its slashes. */
function breakable(path) {
  return element("span", {}, ...path.split(/(?=\/)/).flatMap((segment) => [element("wbr"), segment]));
}

function badge(method) {
  return element("span", { class: "method" }, method.toUpperCase());
}

function answer(status, response, document_) {
  const contents = Object.entries(response.content ?? {}).map(([type, content]) => media(type, content, document_));
  return element(
    "details",
    { class: "answer", ...(status === "200" ? { open: "" } : {}) },
    element("summary", {}, element("code", {}, status), " ", ...withCode(response.description)),
    ...headers(response.headers ?? {}),
    ...contents,
  );
}

function headers(described) {
  return Object.entries(described).map(([name, header]) =>
    element("p", { class: "hint" }, element("code", {}, name), " ", ...withCode(header.description)),
  );
}

/** One form of an answer; a stream of events comes with its events and an example of the whole. */
function media(type, content, document_) {
  const events = content.itemSchema?.properties.data.anyOf[0].contentSchema.anyOf ?? [];
  const children = [element("h4", {}, type)];
  if (events.length > 0 || !content.schema) children.push(...paragraph(content.itemSchema?.description));
  else children.push(fields(content.schema, document_));
  for (const event of events) children.push(element("h5", {}, nameOf(event)), fields(event, document_));
  if (content.example !== undefined) children.push(element("h5", {}, "Example"), example(content.example));
  return element("div", { class: "media" }, ...children);
}

function fields(schema, document_) {
  const whole = resolve(schema, document_);
  if (!whole.properties) return element("p", { class: "hint" }, ...withCode(whole.description ?? typeInWords(whole, document_)));
  return table(whole.description, properties(whole, "", document_));
}

/** A row for each field, required ones first; the fields of an object inside follow it, as `error.message` or `detail[].loc`. */
function properties(whole, prefix, document_) {
  const required = new Set(whole.required);
  const inOrder = Object.entries(whole.properties).sort(([one], [other]) => required.has(other) - required.has(one));
  return inOrder.flatMap(([name, field]) => {
    const inner = resolve(field.items ?? field, document_);
    const isRequired = required.has(name);
    const parts = inner.properties ? properties(inner, `${prefix}${name}${field.items ? "[]" : ""}.`, document_) : [];
    return [row(prefix + name, field, isRequired, document_), ...parts];
  });
}

/** The parameters in one place of a request: its path, its query or its headers. */
function parameters(title, place, described, document_) {
  const rows = described
    .filter((one) => one.in === place)
    .map((one) => row(one.name, { ...one.schema, description: one.description }, one.required, document_));
  return rows.length > 0 ? [element("h3", {}, title), table(null, rows)] : [];
}

function row(name, field, isRequired, document_) {
  return {
    name: element("code", {}, name),
    type: typeInWords(field, document_),
    default: field.default === undefined ? (isRequired ? "required" : "") : JSON.stringify(field.default),
    range: rangeInWords(field),
    meaning: field.description ?? "",
  };
}

/** Columns in which no row says anything are left out; nor is it news that every field of an answer is there. */
function table(caption, rows) {
  const isNews = (words) => words !== "" && words !== "required";
  const titles = ["name", "type", "default", "range", "meaning"].filter((title) => rows.some((one) => isNews(one[title])));
  const cell = (one, title) =>
    title === "name"
      ? element("th", { scope: "row" }, one.name)
      : element("td", { class: title }, ...withCode(one[title]));
  return element(
    "div",
    { class: "fields" },
    element(
      "table",
      {},
      ...(caption ? [element("caption", {}, ...withCode(caption))] : []),
      element("thead", {}, element("tr", {}, ...titles.map((title) => element("th", { scope: "col", class: title }, title)))),
      element("tbody", {}, ...rows.map((one) => element("tr", {}, ...titles.map((title) => cell(one, title))))),
    ),
  );
}

function example(value) {
  return element("pre", { tabindex: "0" }, typeof value === "string" ? value.trimEnd() : JSON.stringify(value, null, 2));
}

function paragraph(text) {
  return text ? [element("p", {}, ...withCode(text))] : [];
}

/** The document's descriptions put code between backticks. */
function withCode(text) {
  return text.split("`").map((piece, number) => (number % 2 === 1 ? element("code", {}, piece) : piece));
}

function find(id) {
  return document.getElementById(id);
}

main().catch((error) => {
  find("description").textContent = `openapi.json cannot be read: ${error.message}`;
});
