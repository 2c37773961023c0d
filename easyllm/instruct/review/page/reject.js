// Why a row goes: a reason by its number, or the reviewer's own words.
import { by, el } from "./dom.js";

let chosen = null; // what to do with the reason, while it is asked for

/** Ask; `then(note)` gets the reason's English name, or the words. */
export function askReason(start, then) {
  const dialog = by("reject");
  const note = by("note");
  chosen = (text) => {
    chosen = null;
    dialog.close();
    then(text);
  };
  by("reasons").replaceChildren(...start.reasons.map((name, at) => el("li", {},
    el("button", { type: "button", onclick: () => chosen(name), "aria-keyshortcuts": String(at + 1) },
      el("kbd", {}, String(at + 1)), el("span", {}, start.terms[name])))));
  note.value = "";
  by("reject-note").onclick = () => chosen(note.value.trim());
  dialog.onclose = () => (chosen = null);
  dialog.onkeydown = (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === note;
    if (/^[1-9]$/.test(event.key) && !(typing && note.value)) {
      event.preventDefault();
      chooseReason(start, Number(event.key));
    } else if (typing && event.key === "Enter") {
      event.preventDefault();
      chosen(note.value.trim());
    } else if (!typing && event.key.length === 1 && event.key !== " ") note.focus(); // what is typed goes there
  };
  dialog.showModal();
  by("reasons").querySelector("button").focus();
}

/** Take the reason with this number, counted from 1, where one is asked for. */
export function chooseReason(start, which) {
  if (chosen && start.reasons[which - 1]) chosen(start.reasons[which - 1]);
}
