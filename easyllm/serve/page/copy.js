// Copying, also where the browser gives its clipboard to secure origins only.
import { el } from "./dom.js";
import { say } from "./say.js";

/** A click's listener that copies `text()` and says so on the button for a moment. */
export const copied = (text) => async (event) => {
  const button = event.currentTarget;
  const worked = await copy(text());
  button.textContent = say(worked ? "copied" : "not_copied");
  setTimeout(() => (button.textContent = say("copy")), 1500);
};

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyByHand(text);
  }
}

function copyByHand(text) {
  const before = document.activeElement;
  const area = el("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  const worked = document.execCommand("copy");
  area.remove();
  before?.focus();
  return worked;
}
