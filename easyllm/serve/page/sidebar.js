// The list of conversations: open, search, rename, delete.
import { holds, titleOf } from "./conversation.js";
import { by, el } from "./dom.js";
import { say } from "./say.js";

let renaming = null; // the id of the conversation whose name is a field now

/** Draw those that hold the words of the search; `acts` has open, rename and remove. */
export function drawList(conversations, current, acts) {
  const words = by("search").value;
  const found = conversations.filter((one) => (one.turns.length || one.title) && (!words.trim() || holds(one, words)));
  const rows = found.map((one) => el("li", {}, ...(renaming === one.id ? naming(one, acts) : line(one, current, acts))));
  by("list").replaceChildren(...(rows.length ? rows : [el("li", { class: "quiet" }, say(words.trim() ? "found_none" : "none_yet"))]));
}

function line(conversation, current, acts) {
  const title = titleOf(conversation);
  const here = conversation.id === current.id;
  const small = (name, sign, act) => el("button", {
    type: "button", class: "plain small", "aria-label": say(name, { title }), title: say(name, { title }), onclick: act,
  }, sign);
  return [
    el("button", { type: "button", class: "open", "aria-current": here ? "true" : null, dir: "auto", onclick: () => acts.open(conversation) }, title),
    small("rename", "✎", () => {
      renaming = conversation.id;
      acts.redraw();
      by("list").querySelector("input").select();
    }),
    small("remove", "✕", () => acts.remove(conversation))];
}

function naming(conversation, acts) {
  const field = el("input", { "aria-label": say("new_name"), maxlength: "80", dir: "auto" });
  field.value = titleOf(conversation);
  const done = (keep) => {
    if (renaming !== conversation.id) return; // Enter has done it; the field is only losing the focus
    renaming = null;
    if (keep && field.value.trim()) acts.rename(conversation, field.value.trim());
    else acts.redraw();
    by("list").querySelector("[aria-current]")?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    done(event.key === "Enter");
  });
  field.addEventListener("blur", () => done(true));
  return [field];
}
