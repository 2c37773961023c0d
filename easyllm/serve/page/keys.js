// One key, one thing. The help is made from this table.
import { by, el, remember, remembered } from "./dom.js";
import { say } from "./say.js";

const SINGLE = [
  ["write", ["/"]], ["new", ["n"]], ["again", ["r"]], ["edit", ["e"]], ["find", ["f"]], ["settings", ["s"]],
  ["language", ["l"]], ["theme", ["t"]], ["help", ["?"]],
];
const ALWAYS = [["send", ["Enter"]], ["line", ["Shift+Enter"]], ["stop", ["Esc"]], ["last", ["↑"]]];
const TYPING = "input:not([type=checkbox]), textarea, select";

/** Call what `acts` has for a key: single ones while nothing is typed, Escape always. No dialog may be open. */
export function watchKeys(acts) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return acts.escape();
    if (event.target.closest(TYPING) || event.repeat) return;
    const found = SINGLE.find(([, keys]) => keys.includes(event.key));
    if (!found || (remembered("single") === "off" && event.key !== "?")) return;
    event.preventDefault();
    acts[found[0]]();
  });
}

export function fillHelp() {
  by("keys").replaceChildren(...[...ALWAYS, ...SINGLE].flatMap(([name, keys]) => [
    el("dt", {}, ...keys.map((key) => el("kbd", {}, key))),
    el("dd", {}, say(`key_${name}`)),
  ]));
  by("single").checked = remembered("single") !== "off";
  by("single").onchange = () => remember("single", by("single").checked ? "on" : "off");
}
