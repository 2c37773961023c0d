// The row's texts as fields. What was typed and left without saving comes back with the next edit.
import { TEXTS, words } from "./card.js";
import { by, el } from "./dom.js";
import { say } from "./say.js";

const drafts = new Map(); // by the row's id
let editing = null; // the row

export const isOpen = () => editing !== null;

/** Show the fields in place of the row; `save(edited)` gets the texts, null where they are the row's own. */
export function open(row, author, save, leave) {
  editing = row;
  const begin = drafts.get(row.id) ?? words(row, author);
  const fields = TEXTS.map((name) => field(name, begin[name] ?? "", row.language));
  const problem = el("p", { class: "problem", role: "alert" });
  const finish = () => {
    const edited = Object.fromEntries(TEXTS.map((name) => [name, by(`edit-${name}`).value]));
    if (!edited.instruction.trim() || !edited.output.trim()) {
      problem.textContent = say("empty_text");
      by(edited.instruction.trim() ? "edit-output" : "edit-instruction").focus();
      return;
    }
    save(TEXTS.every((name) => edited[name] === row[name]) ? null : edited);
  };
  const form = el("form", { class: "editor", onsubmit: (event) => (event.preventDefault(), finish()) },
    ...fields, problem,
    el("p", { class: "quiet" }, say("edit_hint")),
    el("p", { class: "buttons" },
      el("button", { type: "button", onclick: leave }, say("leave")),
      el("button", { type: "submit", class: "good", "aria-keyshortcuts": "Control+Enter" }, say("save"))));
  form.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // Enter and Escape belong to the input method
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) finish();
    else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  form.addEventListener("input", () => {
    drafts.set(row.id, Object.fromEntries(TEXTS.map((name) => [name, by(`edit-${name}`).value])));
    fields.forEach((one) => grow(one.querySelector("textarea")));
  });
  by("row").replaceChildren(form);
  fields.forEach((one) => grow(one.querySelector("textarea")));
  by("edit-output").focus();
}

/** The fields go; `saved` forgets what was typed. */
export function close(saved) {
  if (saved && editing) drafts.delete(editing.id);
  editing = null;
}

function field(name, text, language) {
  const area = el("textarea", { id: `edit-${name}`, dir: "auto", lang: language || null, spellcheck: "true", rows: "2" });
  area.value = text;
  return el("label", { class: "wide" }, el("span", {}, say(name)), area);
}

function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight * 0.7)}px`;
}
