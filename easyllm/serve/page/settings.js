// How answers are asked for. An empty field leaves the choice to the server.
import { by, el } from "./dom.js";
import { say } from "./say.js";

const MOST_STOPS = 4; // the OpenAI API's

const NUMBERS = [
  { name: "temperature", least: 0, most: 2, step: 0.1, whole: false },
  { name: "top_p", least: 0.01, most: 1, step: 0.05, whole: false },
  { name: "max_tokens", least: 1, most: 1_000_000, step: 1, whole: true },
  { name: "seed", least: 0, most: Number.MAX_SAFE_INTEGER, step: 1, whole: true },
  { name: "top_k", least: 0, most: 1_000_000, step: 1, whole: true },
  { name: "repetition_penalty", least: 0.01, most: 100, step: 0.1, whole: false },
  { name: "frequency_penalty", least: -2, most: 2, step: 0.1, whole: false },
  { name: "presence_penalty", least: -2, most: 2, step: 0.1, whole: false },
];

const form = () => by("settings-form");

let shown = null; // the id of the conversation whose values the fields have

/**
 * Write the fields in the language of the page, with the conversation's values; `changed(values)` gets new ones. A field
 * that is being written in stays as it is: half a number has no value yet.
 */
export function drawSettings({ id, settings: values }, changed) {
  const busy = shown === id ? fields().find((field) => field === document.activeElement) : undefined;
  shown = id;
  if (!busy) by("numbers").replaceChildren(...NUMBERS.map(({ name, least, most, step }) =>
    el("label", {}, el("span", {}, say(name)), el("input", {
      type: "number", name, min: String(least), max: String(most), step: "any", "data-step": String(step),
      inputmode: "decimal", placeholder: say("server_chooses"), "aria-describedby": "settings-problem",
    }))));
  for (const field of fields()) if (field !== busy) field.value = values[field.name] ?? "";
  form().oninput = () => {
    by("settings-problem").textContent = problem()?.text ?? "";
    changed(Object.fromEntries(fields().map((field) => [field.name, field.value])));
  };
  by("settings-problem").textContent = problem()?.text ?? "";
}

const fields = () => [...form().elements].filter((field) => field.name);

/** The first field whose value no server would take, and why; null when all is well. */
export function problem() {
  for (const field of fields()) {
    const text = wrong(field);
    field.setAttribute("aria-invalid", String(Boolean(text)));
    if (text) return { field, text };
  }
  return null;
}

function wrong(field) {
  if (field.name === "stop") return stops(field.value).length > MOST_STOPS ? say("too_many_stops", { most: MOST_STOPS }) : "";
  const bounds = NUMBERS.find(({ name }) => name === field.name);
  if (!bounds || (field.value === "" && !field.validity.badInput)) return "";
  const { name, least, most, whole } = bounds;
  const value = Number(field.value);
  const right = !field.validity.badInput && value >= least && value <= most && (!whole || Number.isInteger(value));
  return right ? "" : say(whole ? "bounds_whole" : "bounds", { name: say(name), least, most });
}

const stops = (text) => text.split("\n").filter((line) => line !== "");

/** What the fields are in the words of the API. */
export function asParameters(values) {
  const numbers = NUMBERS.filter(({ name }) => values[name] !== "" && values[name] !== undefined);
  const stop = stops(values.stop ?? "");
  return { ...Object.fromEntries(numbers.map(({ name }) => [name, Number(values[name])])), ...(stop.length && { stop }) };
}
