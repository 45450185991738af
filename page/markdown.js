// Markdown as elements. Text only ever becomes text nodes, so nothing that a model writes can be markup; a link goes to
// http and https alone. Known: headings, lists, quotes, tables, fenced code, rules, and in a line code, bold, italic,
// struck and links.

import { element } from "./dom.js";

const FENCE = /^ {0,3}(```+|~~~+)\s*([^\s`]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const BELOW_TABLE_HEAD = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
// The lengths are bounded, so that no text makes the search slow.
const INLINE =
  /(`+)(.{1,999}?)\1|\*\*\*(?!\s)(.{1,999}?)\*\*\*|~~(?!\s)(.{1,999}?)~~|\*\*(.{1,999}?)\*\*|__(.{1,999}?)__|\*(?!\s)(.{1,999}?)\*|(?<!\w)_(?!\s)(.{1,999}?)_(?!\w)|\[([^\]]{1,299})\]\((\S{1,999}?)\)/gs;

const DEEPEST = 16; // quotes and lists within each other; what is deeper is text, as each level takes some of the stack

/** The blocks of a text. `depth` is how many quotes and lists it is in. */
export function markdown(text, depth = 0) {
  if (depth === DEEPEST) return [element("p", {}, ...inline(text))];
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  while (lines.length > 0) {
    if (lines[0].trim() === "") lines.shift();
    else blocks.push(block(lines, depth));
  }
  return blocks;
}

/** Take a block off the front of `lines`. */
function block(lines, depth) {
  if (FENCE.test(lines[0])) return fenced(lines);
  if (RULE.test(lines[0])) return lines.shift() && element("hr");
  const heading = HEADING.exec(lines[0]);
  if (heading) {
    lines.shift();
    return element(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2]));
  }
  if (/^\s*>/.test(lines[0])) {
    const quoted = takeWhile(lines, (line) => /^\s*>/.test(line)).map((line) => line.replace(/^\s*> ?/, ""));
    return element("blockquote", {}, ...markdown(quoted.join("\n"), depth + 1));
  }
  if (ITEM.test(lines[0])) return list(lines, depth);
  if (isTable(lines)) return table(lines);
  const isText = (line) => line.trim() !== "" && !FENCE.test(line) && !HEADING.test(line) && !isTable(lines);
  const paragraph = takeWhile(lines, isText);
  return element("p", {}, ...inline(paragraph.join("\n")));
}

/** Code up to the closing fence, or to the end: a stream may not have brought it yet. */
function fenced(lines) {
  const [, fence, language] = FENCE.exec(lines.shift());
  const code = takeWhile(lines, (line) => !line.trimStart().startsWith(fence));
  lines.shift();
  const attributes = language === "" ? {} : { "data-language": language };
  return element("pre", attributes, element("code", {}, code.join("\n")));
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const isNumbered = /\d/.test(mark);
  const items = [];
  while (lines.length > 0) {
    const item = ITEM.exec(lines[0]);
    if (item === null || item[1].length < indent.length || /\d/.test(item[2]) !== isNumbered) break;
    lines.shift();
    const more = takeWhile(lines, (line) => /^\s{2,}\S/.test(line) && line.search(/\S/) > indent.length);
    items.push(element("li", {}, ...itemContent(item[3], more, depth)));
  }
  return element(isNumbered ? "ol" : "ul", isNumbered ? { start: String(parseInt(mark, 10)) } : {}, ...items);
}

function itemContent(text, more, depth) {
  const nested = more.length === 0 ? [] : markdown(more.map((line) => line.replace(/^\s{2,4}/, "")).join("\n"), depth + 1);
  return [...inline(text), ...nested];
}

/** Whether a table begins here: a line with columns, and one below it that only separates them. */
function isTable([head, below = ""]) {
  return head.includes("|") && below.includes("|") && BELOW_TABLE_HEAD.test(below);
}

function table(lines) {
  const head = row(lines.shift(), "th");
  lines.shift();
  const rows = takeWhile(lines, (line) => line.includes("|")).map((line) => row(line, "td"));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function row(line, tag) {
  const cells = line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/);
  return element("tr", {}, ...cells.map((cell) => element(tag, {}, ...inline(cell.trim().replaceAll("\\|", "|")))));
}

/** A line's text, with the marks in it; a link that is not a web address stays text. */
function inline(text) {
  const children = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, , code, both, struck, strong, strong2, em, em2, label, target] = found;
    if (found.index > at) children.push(text.slice(at, found.index));
    children.push(marked(whole, { code, both, struck, strong: strong ?? strong2, em: em ?? em2, label, target }));
    at = found.index + whole.length;
  }
  if (at < text.length) children.push(text.slice(at));
  return children;
}

function marked(whole, { code, both, struck, strong, em, label, target }) {
  if (code !== undefined) return element("code", {}, code.trim());
  if (both !== undefined) return element("strong", {}, element("em", {}, ...inline(both)));
  if (struck !== undefined) return element("del", {}, ...inline(struck));
  if (strong !== undefined) return element("strong", {}, ...inline(strong));
  if (em !== undefined) return element("em", {}, ...inline(em));
  if (!/^https?:\/\//i.test(target)) return whole;
  return element("a", { href: target, rel: "noopener noreferrer", target: "_blank" }, ...inline(label));
}

/** Take the first lines off, as long as they are what is wanted. */
function takeWhile(lines, isWanted) {
  const taken = [];
  while (lines.length > 0 && isWanted(lines[0])) taken.push(lines.shift());
  return taken;
}
