// The row as a reviewer reads it: what was found, its texts, the most similar instruction, who decided what.
import { el } from "./dom.js";
import { changes, difference } from "./difference.js";
import { differing, textBlock } from "./marked.js";
import { languageName, say, written } from "./say.js";

export const TEXTS = ["instruction", "input", "output"];
const ALIKE = 0.5; // from here on the most similar instruction is shown unasked

/** The row's words as they would be trained on: with the edits that were made, the author's own before others'. */
export function words(row, author) {
  const edits = [row.by[author], ...Object.values(row.by)].filter((one) => one?.edited);
  return edits.length && row.state !== "conflict" ? edits[0].edited : row;
}

/** Everything about `row`. `start` is what the server said at first; `follow(author)` decides as he did. */
export function card(row, start, search, follow) {
  const shown = words(row, start.author);
  const marks = [...flags(row, start), ...(search ? [{ text: search, kind: "hit", title: say("search") }] : [])];
  return [
    head(row, start),
    findings(row, start),
    row.state === "conflict" ? decisions(row, start, follow) : null,
    ...TEXTS.filter((name) => shown[name]).map((name) => section(name, shown, row, marks)),
    nearest(row),
    row.state !== "conflict" ? decisions(row, start, follow) : null,
  ].filter((part) => part !== null);
}

export const term = (start, name) => (Object.hasOwn(start.terms, name) ? start.terms[name] : name);

function head(row, start) {
  const length = TEXTS.reduce((sum, name) => sum + row[name].length, 0);
  const facts = [
    row.language && languageName(row.language),
    term(start, row.origin),
    row.is_classification && say("classification"),
    row.score !== null && say("score_of", { score: row.score }),
    say("characters", { n: written(length) }),
    row.lot && say(row.lot === "accept-all" ? "all_accepted" : "lot_accepted"),
  ];
  return el("div", { class: "row-head" },
    el("h2", {}, say("row_of", { number: written(row.number + 1), total: written(start.total) })),
    el("span", { class: `state ${row.state}` }, say(row.state)),
    el("ul", { class: "facts" }, facts.filter(Boolean).map((fact) => el("li", {}, fact))));
}

function findings(row, start) {
  if (!row.findings.length) return null;
  const items = row.findings.map((found) => el("li", {},
    el("strong", {}, term(start, found.reason)),
    el("span", { class: "quiet" }, say(found.drops ? "dropped" : "flagged")),
    ...Object.entries(found.detail).filter(([name]) => name !== "other").map(([name, value]) =>
      el("span", { class: "detail" }, `${name === "rouge_l" ? "ROUGE-L" : term(start, name)}: ${short(name === "kinds" ? [value].flat().map((kind) => term(start, kind)) : value)}`))));
  return el("section", { class: "findings", "aria-label": say("found") }, el("ul", {}, items));
}

function short(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return value.toFixed(2);
  const text = typeof value === "string" ? value : Array.isArray(value) ? value.map(short).join(", ") : JSON.stringify(value);
  return text.length > 120 ? text.slice(0, 120) + "…" : text;
}

/** What the filters quote from the row, to be marked in it. */
function flags(row, start) {
  return row.findings.flatMap((found) => quoted(found.detail).map((text) => (
    { text, kind: "flag", title: term(start, found.reason) })));
}

function quoted(detail) {
  if (typeof detail === "string") return detail.length > 1 && detail.length <= 300 ? [detail] : [];
  if (detail === null || typeof detail !== "object") return [];
  return Object.entries(detail).filter(([name]) => name !== "other").flatMap(([, value]) => quoted(value));
}

function section(name, shown, row, marks) {
  const block = textBlock(shown[name], row.language, marks);
  const edited = shown[name] !== row[name];
  const before = edited && row[name]
    ? el("details", { class: "before" }, el("summary", {}, say("edits")), compared(row[name], shown[name], row.language))
    : null;
  return el("section", { class: `part ${name}` },
    el("h3", {}, say(name), edited ? el("span", { class: "tag" }, say("edited")) : null), block, before);
}

/** What was taken out and put in; the new words alone where they are too long to compare. */
function compared(old, fresh, language) {
  const parts = changes(old, fresh);
  if (!parts) return textBlock(fresh, language);
  return el("div", { class: "text", dir: "auto", lang: language || null }, ...differing(parts));
}

function nearest(row) {
  const duplicate = row.findings.find((found) => typeof found.detail.other === "string");
  const other = duplicate?.detail.other ?? row.nearest?.instruction;
  if (!other) return null;
  const likeness = duplicate?.detail.rouge_l ?? row.nearest?.rouge_l;
  const parts = difference(row.instruction, other);
  const side = (name, text, at) => el("div", {},
    el("h4", {}, say(name)),
    parts ? el("div", { class: "text", dir: "auto", lang: row.language || null }, ...differing(parts[at])) : textBlock(text, row.language));
  const title = [say("nearest"), typeof likeness === "number" ? say("rouge", { value: likeness.toFixed(2) }) : null];
  return el("details", { class: "nearest", open: Boolean(duplicate) || likeness >= ALIKE },
    el("summary", {}, title.filter(Boolean).join(" · ")),
    el("div", { class: "sides" }, side("this_row", row.instruction, 0), side("earlier", other, 1)));
}

function decisions(row, start, follow) {
  const authors = Object.keys(row.by);
  if (!authors.length) return null;
  const conflict = row.state === "conflict";
  const others = authors.filter((author) => author !== start.author);
  const items = authors.map((author) => {
    const made = row.by[author];
    const changed = made.edited && conflict ? TEXTS.filter((name) => made.edited[name] !== row[name]) : [];
    return el("li", { class: made.verdict },
      el("strong", {}, author === start.author ? say("me", { author }) : author),
      el("span", {}, say(`${made.verdict}_by`)),
      made.note ? el("q", { dir: "auto" }, term(start, made.note)) : null,
      el("time", { class: "quiet", datetime: made.time }, clock(made.time)),
      ...changed.map((name) => el("div", { class: "changed" }, el("h4", {}, say(name)), compared(row[name], made.edited[name], row.language))),
      conflict && author !== start.author
        ? el("button", { type: "button", onclick: () => follow(author) }, say(author === others[0] ? "follow" : "follow_more", { author }))
        : null);
  });
  return el("section", { class: conflict ? "decisions conflict" : "decisions" },
    el("h3", {}, say(conflict ? "conflict_title" : "decisions")), el("ul", {}, items));
}

function clock(time) {
  const found = new Date(time);
  return Number.isNaN(found.valueOf()) ? "" : found.toLocaleString(document.documentElement.lang, { dateStyle: "short", timeStyle: "short" });
}

