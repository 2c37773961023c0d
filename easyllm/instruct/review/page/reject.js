// Why a row goes: a reason by its number, or the reviewer's own words.
import { by, el } from "./dom.js";

/** Ask; `chosen(note)` gets the reason's English name, or the words. */
export function askReason(start, chosen) {
  const dialog = by("reject");
  const note = by("note");
  const take = (text) => {
    dialog.close();
    chosen(text);
  };
  by("reasons").replaceChildren(...start.reasons.map((name, at) => el("li", {},
    el("button", { type: "button", onclick: () => take(name), "aria-keyshortcuts": String(at + 1) },
      el("kbd", {}, String(at + 1)), el("span", {}, start.terms[name])))));
  note.value = "";
  by("reject-note").onclick = () => take(note.value.trim());
  dialog.onkeydown = (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = "123456789".indexOf(event.key);
    if (event.target === note) {
      if (event.key === "Enter") {
        event.preventDefault();
        take(note.value.trim());
      } else if (at >= 0 && !note.value && start.reasons[at]) {
        event.preventDefault();
        take(start.reasons[at]);
      }
    } else if (at >= 0 && start.reasons[at]) {
      event.preventDefault();
      take(start.reasons[at]);
    } else if (event.key.length === 1 && event.key !== " ") note.focus(); // what is typed goes there
  };
  dialog.showModal();
  by("reasons").querySelector("button").focus();
}
