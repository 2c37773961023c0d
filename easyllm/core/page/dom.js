// The few things a page does with the DOM. Texts go in as text, never as HTML.
import { say } from "./say.js";

export const by = (id) => document.getElementById(id);

/** An element with attributes and children; `on…` are listeners, strings become text, null is left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

/** Write the texts of everything marked data-say and data-label, in the language of the page. */
export function write(root = document) {
  for (const found of root.querySelectorAll("[data-say]")) found.textContent = say(found.dataset.say);
  for (const found of root.querySelectorAll("[data-label]")) found.setAttribute("aria-label", say(found.dataset.label));
}

/** Tell those who listen instead of looking. */
export function tell(text) {
  by("told").textContent = text;
}

/** A sentence above everything that stays until the next thing works; "" takes it away. */
export function banner(text) {
  const shown = by("banner");
  if (shown.textContent !== text) shown.textContent = text;
  shown.hidden = !text;
}

/** Remembered by this browser; where it may not remember anything, not. */
export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // a browser that keeps nothing shows the page as well
  }
}
