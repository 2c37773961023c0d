// What the reviewer wants to see. It stands in the address too, so that a reload shows the same.
import { by, el } from "./dom.js";
import { languageName, say, written } from "./say.js";

const STATES = ["undecided", "not_mine", "accepted", "edited", "rejected", "conflict"];
const SCORES = ["1", "2", "3", "4", "5"];

const form = () => by("filters");

/** Fill the choices with what the rows have, and how many of each; what was chosen stays. */
export function fillFilters(start) {
  const chosen = wanted();
  const { reasons, languages, origins } = start.facets;
  const counted = (found, named = (name) => start.terms[name] ?? name) => Object.entries(found)
    .sort((a, b) => b[1] - a[1]).map(([name, count]) => [name, `${named(name)} (${written(count)})`]);
  options("state", say("any"), STATES.map((state) => [state, say(state)]));
  options("reason", say("any"), counted(reasons));
  options("language", say("any"), counted(languages, languageName));
  options("origin", say("any"), counted(origins));
  options("least_score", say("least"), SCORES.map((score) => [score, score]));
  options("most_score", say("most"), SCORES.map((score) => [score, score]));
  form().elements.least_length.placeholder = say("least");
  form().elements.most_length.placeholder = say("most");
  setWanted(chosen);
}

function options(name, first, choices) {
  const made = [["", first], ...choices].map(([value, text]) => el("option", { value }, text));
  form().elements[name].replaceChildren(...made);
}

/** {name: value} of everything that is asked for. */
export function wanted() {
  return Object.fromEntries([...new FormData(form())].filter(([, value]) => value !== ""));
}

export function setWanted(values) {
  form().reset();
  for (const [name, value] of Object.entries(values)) {
    const field = form().elements[name];
    if (!field) continue;
    if (field.type === "checkbox") field.checked = value === "1";
    else field.value = value;
  }
}

export const inAddress = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** The address without the token, which nobody should copy or see in a list of visited pages. */
export function toAddress() {
  history.replaceState(null, "", `/#${new URLSearchParams(wanted())}`);
}

/** `apply()` after each choice; words are waited for. Escape and Enter lead back to the row. */
export function watchFilters(apply, back) {
  let waiting = 0;
  form().addEventListener("input", (event) => {
    if (event.isComposing) return; // half a word of an input method
    clearTimeout(waiting);
    waiting = setTimeout(apply, event.target.tagName === "INPUT" && event.target.type !== "checkbox" ? 250 : 0);
  });
  form().addEventListener("compositionend", apply);
  form().addEventListener("submit", (event) => event.preventDefault());
  form().addEventListener("keydown", async (event) => {
    const leaves = event.key === "Escape" || (event.key === "Enter" && event.target.tagName === "INPUT");
    if (event.isComposing || !leaves) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Enter") {
      clearTimeout(waiting);
      await apply();
    }
    back();
  });
}
