// Texts, names and numbers in the language of the page. Every page has a words.js of its own beside this.
import { WORDS } from "./words.js";

/** The text called `name` in the language of the page. */
export function say(name, values = {}) {
  const text = WORDS[document.documentElement.lang][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

/** The name of a language by its code, as people of the page's language call it. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames(document.documentElement.lang, { type: "language" }).of(code);
  } catch {
    return code; // not a code at all
  }
}

/** A number as people of this language write it. */
export const written = (number) => number.toLocaleString(document.documentElement.lang);
export const percent = (share) =>
  share.toLocaleString(document.documentElement.lang, { style: "percent", maximumFractionDigits: 2 });
