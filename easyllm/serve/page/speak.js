// For those who listen: an answer is told sentence by sentence as it comes, not letter by letter and not all again.
import { by, el } from "./dom.js";

const KEPT = 20; // sentences; a log that only grows is slow to read

const END = /[.!?](?=\s)|[。！？；\n]/g;

/** Tell one thing. */
export function tell(text) {
  const told = by("told");
  told.append(el("p", {}, text));
  while (told.children.length > KEPT) told.firstChild.remove();
}

/** Tells an answer: call add(text so far) as it grows, and end(text) once. */
export function teller() {
  let at = 0;
  const upTo = (text, end) => {
    const fresh = text.slice(at, end).trim();
    if (fresh) tell(fresh);
    at = end;
  };
  return {
    add(text) {
      const ends = [...text.slice(at).matchAll(END)];
      if (ends.length) upTo(text, at + ends.at(-1).index + 1);
    },
    end: (text) => upTo(text, text.length),
  };
}
