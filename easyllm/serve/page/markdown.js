// Our own small Markdown: headings, lists, quotes, tables, code, bold, italic, links. It makes elements and puts text
// into them as text; HTML, pictures and links to anything but web and mail stay the characters they are.
// A model may write anything at any length: every search ends after a fixed distance, so the time grows with the text.
import { el } from "./dom.js";
import { copied } from "./copy.js";
import { say } from "./say.js";

const DEEPEST = 6; // lists in lists, bold in bold
const FAR = 2000; // characters from an opening sign to its closing one

export function markdown(text) {
  return blocks(text.split("\n"), 0);
}

const KINDS = [fence, heading, rule, table, quote, list];
const INTERRUPTS = /^ {0,3}(`{3}|~{3}|#{1,6} |>|[-*+] +\S|1[.)] +\S)/;

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    let found = null; // the block that begins here, and the line after it
    for (const kind of KINDS) found ??= kind(lines, at, depth);
    const [block, next] = found ?? paragraph(lines, at, depth);
    made.push(block);
    at = next;
  }
  return made;
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !INTERRUPTS.test(lines[end]) && !isTable(lines, end)) end += 1;
  return [el("p", {}, ...inline(lines.slice(at, end).join("\n"), depth)), end];
}

function fence(lines, at) {
  const opening = /^ {0,3}(`{3,}|~{3,})([^`]*)$/.exec(lines[at]);
  if (!opening) return null;
  const closing = new RegExp(`^ {0,3}${opening[1][0]}{${opening[1].length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  return [code(lines.slice(at + 1, end).join("\n"), opening[2].trim().split(/\s/)[0]), end + 1];
}

function code(text, language) {
  const label = language.slice(0, 30) || say("code");
  return el("div", { class: "code" },
    el("div", { class: "code-head" }, el("span", {}, label),
      el("button", { type: "button", class: "plain", "aria-label": say("copy_code"), onclick: copied(() => text) }, say("copy"))),
    el("pre", { tabindex: "0", role: "group", "aria-label": label }, el("code", { dir: "ltr" }, text)));
}

function heading(lines, at, depth) {
  const found = /^ {0,3}(#{1,6}) +(.*)$/.exec(lines[at]);
  if (!found) return null;
  const level = Math.min(found[1].length + 3, 6); // below the headings of the page
  return [el(`h${level}`, {}, ...inline(found[2].replace(/ #{1,6}$/, ""), depth)), at + 1];
}

function rule(lines, at) {
  const line = lines[at].replaceAll(" ", "");
  return lines[at].length < 200 && /^(-{3,}|\*{3,}|_{3,})$/.test(line) ? [el("hr"), at + 1] : null;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function isTable(lines, at) {
  const below = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || below.length > 1000 || !below.includes("-")) return false;
  const bars = cells(below);
  return cells(lines[at]).length === bars.length && bars.every((bar) => /^:?-+:?$/.test(bar));
}

function table(lines, at, depth) {
  if (!isTable(lines, at)) return null;
  const head = cells(lines[at]);
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const row = (line, tag) => el("tr", {}, ...line.slice(0, head.length).map((cell) => el(tag, {}, ...inline(cell, depth))));
  const body = lines.slice(at + 2, end).map((line) => row(cells(line), "td"));
  const made = el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...body));
  return [el("div", { class: "wide-table", tabindex: "0", role: "group", "aria-label": say("table") }, made), end];
}

function quote(lines, at, depth) {
  const mark = /^ {0,3}> ?/;
  if (depth >= DEEPEST || !mark.test(lines[at])) return null;
  let end = at;
  while (end < lines.length && mark.test(lines[end])) end += 1;
  return [el("blockquote", {}, ...blocks(lines.slice(at, end).map((line) => line.replace(mark, "")), depth + 1)), end];
}

const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(?=\S)/;
const indent = (line) => line.length - line.trimStart().length;

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first || depth >= DEEPEST) return null;
  const outer = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length < outer || item[1].length > outer + 1 || /\d/.test(item[2]) !== ordered) break;
    const inner = [lines[end].slice(item[0].length)];
    end += 1;
    while (end < lines.length && (indent(lines[end]) > outer + 1 || !lines[end].trim())) {
      inner.push(lines[end].slice(Math.min(indent(lines[end]), item[0].length)));
      end += 1;
    }
    items.push(el("li", {}, ...blocks(inner, depth + 1)));
  }
  const start = ordered && parseInt(first[2], 10) !== 1 ? parseInt(first[2], 10) : null;
  return [el(ordered ? "ol" : "ul", { start }, ...items), end];
}

// Within a line

const SIGN = /[`*_[\\]|https?:\/\//g;

function inline(text, depth) {
  const made = [];
  const sign = new RegExp(SIGN);
  let begin = 0;
  for (let found = sign.exec(text); found; found = sign.exec(text)) {
    const at = found.index;
    const [node, end] = signed(text, at, found[0], depth);
    if (node !== null) {
      made.push(text.slice(begin, at), node);
      begin = end;
    }
    sign.lastIndex = end;
  }
  made.push(text.slice(begin));
  return made.filter((part) => part !== "");
}

/** What a sign makes, and where it ends; null where it is only a character. */
function signed(text, at, sign, depth) {
  if (sign === "\\") return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? [text[at + 1], at + 2] : [null, at + 1];
  if (sign === "`") return span(text, at);
  if (sign === "[") return link(text, at, depth);
  if (sign.startsWith("http")) return bare(text, at);
  return emphasis(text, at, sign, depth);
}

/** How often the character at `at` stands there in a row. */
function run(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

/** Where `sign` stands next, not further than FAR; -1 where it does not. */
function near(text, sign, from) {
  const found = text.slice(from, from + FAR).indexOf(sign);
  return found < 0 ? -1 : from + found;
}

function span(text, at) {
  const marks = run(text, at);
  const end = marks > 9 ? -1 : near(text, "`".repeat(marks), at + marks);
  if (end < 0) return [null, at + marks];
  return [el("code", { dir: "ltr" }, text.slice(at + marks, end).replace(/^ (.+) $/, "$1")), end + marks];
}

function emphasis(text, at, sign, depth) {
  const marks = run(text, at);
  const width = Math.min(marks, 2);
  const next = text[at + width] ?? " ";
  const inWord = sign === "_" && /[\p{L}\p{N}_]/u.test(text[at - 1] ?? " ");
  if (marks > 3 || depth >= DEEPEST || inWord || /\s/.test(next)) return [null, at + marks];
  const end = near(text, sign.repeat(width), at + width + 1);
  if (end < 0 || /\s/.test(text[end - 1]) || (width === 1 && text[end + 1] === sign)) return [null, at + marks];
  const within = inline(text.slice(at + width, end), depth + 1);
  return [el(width === 2 ? "strong" : "em", {}, ...within), end + width];
}

function link(text, at, depth) {
  const middle = near(text, "](", at + 1);
  const end = middle < 0 ? -1 : near(text, ")", middle + 2);
  const address = end < 0 ? null : safe(text.slice(middle + 2, end));
  if (!address || text[at - 1] === "!" || depth >= DEEPEST) return [null, at + 1];
  const label = text.slice(at + 1, middle);
  if (!isPaired(label)) return [null, at + 1]; // in "[1], see [docs](…)" the link begins later
  return [anchor(address, label), end + 1];
}

/** Whether each bracket of a label has its other half within it. */
function isPaired(label) {
  let open = 0;
  for (const [sign] of label.matchAll(/\\.|[[\]]/g)) {
    if (sign === "[") open += 1;
    if (sign === "]") open -= 1;
    if (open < 0) return false;
  }
  return open === 0;
}

function bare(text, at) {
  const found = /^[^\s<>"'`*\\^{}|)\]，。；、）】》]+/.exec(text.slice(at, at + FAR))[0].replace(/[.,:;!?]+$/, "");
  const address = safe(found);
  return address ? [anchor(address, found), at + found.length] : [null, at + found.length];
}

/** A link that says where it leads, whatever it is called. */
function anchor(address, label) {
  const where = address.host || address.pathname;
  const made = el("a", { href: address.href, target: "_blank", rel: "noopener noreferrer nofollow", title: address.href }, label);
  if (label.includes(where)) return made;
  return el("span", {}, made, el("span", { class: "quiet" }, ` (${where})`));
}

function safe(text) {
  const address = URL.parse?.(text.trim()) ?? null;
  return address && ["http:", "https:", "mailto:"].includes(address.protocol) ? address : null;
}
