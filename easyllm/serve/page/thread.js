// The conversation as it is read: each turn with its prompt, its answers side by side, and what can be done with it.
import { branches, path } from "./conversation.js";
import { copied } from "./copy.js";
import { by, el } from "./dom.js";
import { markdown } from "./markdown.js";
import { say, written } from "./say.js";
import { HERE } from "./server.js";

const drafts = new Map(); // by turn: an edit that was left without sending comes back with the next one

/** Draw all turns; `acts` has ask(turn, prompt), show(turn) and running(answer). */
export function drawThread(conversation, acts) {
  const turns = path(conversation);
  by("thread").replaceChildren(...(turns.length ? turns.map((turn) => article(conversation, turn, acts)) : welcome()));
  by("thread").classList.toggle("two", turns.some((turn) => turn.answers.length > 1));
}

function welcome() {
  return [el("div", { class: "welcome" }, el("h2", {}, say("welcome")), el("p", { class: "quiet" }, say("welcome_about")))];
}

function article(conversation, turn, acts) {
  return el("article", { class: "turn", "data-turn": turn.id },
    el("section", { class: "prompt", "aria-label": say("you") }, ...asked(conversation, turn, acts)),
    el("div", { class: "answers" }, ...turn.answers.map((answer) => answered(turn, answer, acts))));
}

function asked(conversation, turn, acts) {
  const others = branches(conversation, turn);
  const at = others.indexOf(turn);
  const turnTo = (name, sign, to) => el("button", {
    type: "button", class: "plain", "aria-label": say(name), disabled: !others[to], onclick: () => acts.show(others[to], name),
    "data-do": name,
  }, sign);
  const pager = others.length < 2 ? [] : [
    turnTo("branch_before", "‹", at - 1),
    el("span", {}, say("branch", { at: written(at + 1), of: written(others.length) })),
    turnTo("branch_after", "›", at + 1)];
  return [
    el("div", { class: "text", dir: "auto" }, turn.prompt),
    el("div", { class: "tools" }, ...pager,
      el("button", { type: "button", class: "plain", "data-do": "edit", onclick: () => openEditor(turn, acts) }, say("edit")),
      el("button", { type: "button", class: "plain", "data-do": "again", onclick: () => acts.ask(turn, turn.prompt) }, say("again")))];
}

function answered(turn, answer, acts) {
  const shown = el("section", { class: "answer", "aria-label": nameOf(answer) },
    el("h3", {}, nameOf(answer)), el("div", { class: "text" }), el("div", { class: "end" }));
  fill(shown, turn, answer, acts);
  return shown;
}

/** Put an answer's text and what can be said of it into its place. */
export function fill(shown, turn, answer, acts) {
  const running = acts.running(answer);
  shown.setAttribute("aria-busy", String(running));
  shown.querySelector(".text").replaceChildren(...markdown(answer.text));
  shown.querySelector(".end").replaceChildren(...(running ? [] : ending(turn, answer, acts)));
}

export const placeOf = (turn, answer) =>
  document.querySelectorAll(`[data-turn="${turn.id}"] .answer`)[turn.answers.indexOf(answer)];

function ending(turn, answer, acts) {
  if (answer.trouble) {
    const again = el("button", { type: "button", "data-do": "retry", onclick: () => acts.ask(turn, turn.prompt) }, say("try_again"));
    return [el("p", { class: "problem" }, troubleText(answer.trouble, answer)), again];
  }
  const facts = [];
  if (!answer.finish) facts.push(say("stopped"));
  if (answer.finish === "length") facts.push(say("cut"));
  if (answer.tokens) facts.push(say("tokens", { n: written(answer.tokens) }));
  if (answer.speed) facts.push(say("speed", { n: written(Number(answer.speed.toPrecision(2))) }));
  if (!answer.text.trim() && answer.finish) facts.unshift(say("silent"));
  const copy = el("button", { type: "button", class: "plain", onclick: copied(() => answer.text) }, say("copy"));
  return [el("div", { class: "tools" }, answer.text ? copy : null, el("span", {}, facts.join(" · ")))];
}

/** What went wrong, in the page's words; the server's own stand behind where they say more. */
export function troubleText({ code, detail, seconds }, { server, model }) {
  const wait = seconds ? say("wait", { seconds: written(seconds) }) : "";
  return say(`trouble_${code}`, { detail, model, server: server || location.host, wait }).trim();
}

export const nameOf = ({ server, model }) => (server === HERE ? model : `${model} · ${new URL(server).host}`);

// An earlier prompt in other words

function openEditor(turn, acts) {
  const place = document.querySelector(`[data-turn="${turn.id}"] .prompt`);
  const area = el("textarea", { "aria-label": say("edit_prompt"), dir: "auto", rows: "2" });
  area.value = drafts.get(turn.id) ?? turn.prompt;
  const leave = () => acts.redraw(turn.id);
  const send = () => {
    if (!area.value.trim() || !acts.ask(turn, area.value)) return;
    drafts.delete(turn.id);
  };
  const form = el("form", { class: "editor", onsubmit: (event) => (event.preventDefault(), send()) }, area,
    el("p", { class: "buttons" },
      el("button", { type: "button", onclick: leave }, say("leave")),
      el("button", { type: "submit", class: "good" }, say("send"))));
  area.addEventListener("input", () => (drafts.set(turn.id, area.value), grow(area)));
  onEnter(area, send);
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    event.stopPropagation();
    leave();
  });
  place.replaceChildren(form);
  grow(area);
  area.focus();
}

export const editLast = () => [...document.querySelectorAll(".prompt [data-do=edit]")].at(-1)?.click();

/** Enter sends, Shift+Enter makes a new line, and an Enter of the input method is its own. */
export function onEnter(area, send) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
}

export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight * 0.4)}px`;
}
