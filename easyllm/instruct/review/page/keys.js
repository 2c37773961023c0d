// One key, one thing. The help is made from this table.
import { by, el, remember, remembered } from "./dom.js";
import { say } from "./say.js";

const KEYS = [
  ["accept", ["a"]], ["edit", ["e"]], ["reject", ["r"]], ["undo", ["u"]], ["back", ["U"]],
  ["next", ["j", "ArrowRight"]], ["previous", ["k", "ArrowLeft"]], ["first", ["Home", "End"]],
  ["filters", ["f"]], ["search", ["/"]], ["clear", ["c"]], ["follow", ["o"]], ["plan", ["p"]],
  ["language", ["l"]], ["theme", ["t"]], ["help", ["?"]],
];

const SIGNS = { ArrowRight: "→", ArrowLeft: "←", U: "Shift+U" };
const TYPING = "input:not([type=checkbox]), textarea, select";

/** Call what `acts` has for a key. Not while a text is typed, a dialog is open or `opening()`, or Ctrl is held. */
export function watchKeys(acts, opening) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest(TYPING) || document.querySelector("dialog[open]")) return;
    if (/^[1-9]$/.test(event.key)) acts.digit(Number(event.key)); // typed on the heels of an r
    if (opening()) return;
    const found = KEYS.find(([, keys]) => keys.includes(event.key));
    if (!found || (remembered("single") === "off" && event.key.length === 1 && event.key !== "?")) return;
    if (event.repeat && !["next", "previous"].includes(found[0])) return; // a key held down decides once
    event.preventDefault();
    acts[found[0]](event.key);
  });
}

export function fillHelp() {
  by("keys").replaceChildren(...KEYS.flatMap(([name, keys]) => [
    el("dt", {}, ...keys.map((key) => el("kbd", {}, SIGNS[key] ?? key))),
    el("dd", {}, say(`key_${name}`)),
  ]));
  by("single").checked = remembered("single") !== "off";
  by("single").onchange = () => remember("single", by("single").checked ? "on" : "off");
}
