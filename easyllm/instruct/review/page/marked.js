// A model's text as nodes: what was found in it is marked, and characters that are not seen are shown.
import { el } from "./dom.js";
import { say, written } from "./say.js";

const FOLD = 6000; // characters shown at first of a very long text

// Controls, zero-width spaces and marks that turn the direction of writing: they hide words from a reader.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/u;

/** A block that holds `text`; `marks` are [{text, title, kind}] that may stand in it. */
export function textBlock(text, language, marks = []) {
  const block = el("div", { class: "text", dir: "auto", lang: language || null });
  if (text.length <= FOLD) {
    block.append(...nodes(text, marks));
    return block;
  }
  const more = el("button", {
    type: "button",
    onclick: () => block.replaceChildren(...nodes(text, marks)),
  }, say("show_all", { n: written(text.length) }));
  block.append(...nodes(text.slice(0, FOLD), marks), "… ", more);
  return block;
}

/** The text with its marks; overlapping ones: the first that begins, and of those the longest. */
export function nodes(text, marks) {
  const spots = marks.flatMap((mark) => places(text, mark)).sort((a, b) => a.from - b.from || b.to - a.to);
  const made = [];
  let at = 0;
  for (const spot of spots) {
    if (spot.from < at) continue;
    made.push(...seen(text.slice(at, spot.from)));
    made.push(el("mark", { class: spot.kind, title: spot.title }, ...seen(text.slice(spot.from, spot.to))));
    at = spot.to;
  }
  made.push(...seen(text.slice(at)));
  return made;
}

const TAGS = { differs: "mark", gone: "del", new: "ins" };

/** The parts of a difference, marked by their kind. */
export function differing(parts) {
  return parts.flatMap(({ text, kind }) => (kind === "same" ? seen(text) : [el(TAGS[kind], { class: kind }, ...seen(text))]));
}

function places(text, mark) {
  const fold = mark.kind === "hit";
  const within = fold ? text.toLowerCase() : text;
  const wanted = fold ? mark.text.toLowerCase() : mark.text;
  const spots = [];
  if (!wanted || within.length !== text.length) return spots; // lower case of some letters is longer than they are
  for (let from = within.indexOf(wanted); from >= 0 && spots.length < 500; from = within.indexOf(wanted, from + wanted.length)) {
    spots.push({ from, to: from + wanted.length, kind: mark.kind, title: mark.title });
  }
  return spots;
}

function seen(text) {
  if (!UNSEEN.test(text)) return text ? [text] : [];
  const made = [];
  let at = 0;
  for (const found of text.matchAll(new RegExp(UNSEEN, "gu"))) {
    const name = "U+" + found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    if (found.index > at) made.push(text.slice(at, found.index));
    made.push(el("span", { class: "unseen-character", title: say("hidden_character", { name }) }, name));
    at = found.index + found[0].length;
  }
  if (at < text.length) made.push(text.slice(at));
  return made;
}
