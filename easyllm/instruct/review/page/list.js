// The rows around the reviewer, beside the row he looks at.
import { words } from "./card.js";
import { by, el } from "./dom.js";
import { near, queue } from "./queue.js";
import { say, written } from "./say.js";

const SHOWN = 140; // characters of an instruction; the line is cut before

/** Draw the list; `go(at)` goes to a place in it. */
export function drawList(author, go) {
  const first = queue.numbers.indexOf(near()[0]);
  const items = near().map((number, offset) => {
    const row = queue.rows.get(number);
    const here = first + offset === queue.at;
    return el("li", {},
      el("button", {
        type: "button",
        class: row?.state ?? "",
        "aria-current": here ? "true" : null,
        onclick: () => go(first + offset),
      },
      el("span", { class: "number" }, written(number + 1)),
      el("span", { class: "first-line", dir: "auto", lang: row?.language || null }, row ? words(row, author).instruction.slice(0, SHOWN) : "…"),
      el("span", { class: "unseen" }, row ? say(row.state) : "")));
  });
  by("list").replaceChildren(...items);
  by("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  const at = Math.min(queue.at + 1, queue.numbers.length);
  by("place").textContent = say("place", { at: written(at), count: written(queue.numbers.length) });
}
