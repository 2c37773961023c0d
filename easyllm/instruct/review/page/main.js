// The review: what each key and button does. One thing after another, so that fast keys lose nothing.
import { get, post } from "./api.js";
import { card } from "./card.js";
import { banner, by, remember, remembered, tell, write } from "./dom.js";
import * as editor from "./editor.js";
import { atEnd } from "./end.js";
import { fillFilters, inAddress, setWanted, toAddress, wanted, watchFilters } from "./filters.js";
import { fillHelp, watchKeys } from "./keys.js";
import { drawList } from "./list.js";
import { decidedNow, drawProgress } from "./pace.js";
import { asked, drawPlan, fetchPlan, fillPlan } from "./plan.js";
import { begin, current, goOn, jump, load, move, number, queue, renew, take } from "./queue.js";
import { askReason, chooseReason } from "./reject.js";
import { say, written } from "./say.js";
import { nextTheme, writeTheme } from "./theme.js";
import { WORDS } from "./words.js";

const EVERY = 2000; // milliseconds between two looks at what other reviewers do

let start; // what the server said at first
let standing; // how far the review is
let shown = null; // the row as it was drawn
let plan = null; // the sample's, while only the sample is shown
let under_way = Promise.resolve();

/** Do `work` after what is under way; a failure is said above the row until the next work. */
function queued(work) {
  under_way = under_way.then(() => banner("")).then(work).catch(failed);
  return under_way;
}

let unreachable = false;

function failed(error) {
  if (!error.code) console.error(error);
  unreachable = error.code === "gone";
  banner(WORDS.en[error.code] ? say(error.code, { error: error.message }) : say("wrong", { error: error.message }));
}

// What is drawn

/** Everything; the row itself only where it is not the one that is shown, so that what is open in it stays open. */
function draw() {
  drawProgress(standing, plan);
  drawList(start.author, (at) => queued(() => go(at)));
  for (const button of by("actions").querySelectorAll("[data-do=accept], [data-do=edit], [data-do=reject]")) {
    button.disabled = !current();
  }
  const row = current();
  if (editor.isOpen() || (row && row === shown)) return;
  shown = row;
  const show = (state) => queued(() => find({ state }));
  by("row").replaceChildren(
    ...(row ? card(row, start, wanted().search, follow) : atEnd(standing.counts, plan, show, acts.plan)));
}

/** Show the row where the reviewer is now, from its beginning. */
async function arrive() {
  await load();
  editor.close(false);
  shown = null;
  draw();
  window.scrollTo(0, 0);
  if (!document.activeElement.closest("#filters, dialog")) by("row").focus({ preventScroll: true });
  const row = current();
  if (row) tell(say("told_row", { number: written(row.number + 1), text: row.instruction.slice(0, 200) }));
  else tell([...by("row").querySelectorAll("h2, p")].map((part) => part.textContent).join(". "));
}

// Where the reviewer goes

function go(at) {
  move(at);
  return arrive();
}

/** Make the list anew by the filters, or by `values` in their place. */
async function find(values = null, focus = true) {
  if (values) setWanted(values);
  const { sample, ...others } = wanted();
  toAddress();
  plan = sample ? await fetchPlan() : null;
  const { numbers } = await get("find", others);
  const found = new Set(numbers);
  const chosen = plan ? plan.numbers.filter((one) => found.has(one)) : numbers;
  begin(chosen, plan ? plan.numbers_left.find((one) => found.has(one)) : number());
  await load();
  if (focus) return arrive();
  editor.close(false);
  shown = null;
  draw();
  tell(say("told_found", { count: written(chosen.length) }));
}

// What he decides

async function decide(verdict, more = {}) {
  const row = current();
  if (!row) return;
  const answer = await post("decide", { row: row.id, verdict, since: standing.revision, ...more });
  editor.close(true);
  decidedNow();
  if (await settle(answer.standing, answer.row)) return;
  goOn(start.author);
  await arrive();
  tell(`${say(`told_${verdict}`, { number: written(row.number + 1) })} ${by("told").textContent}`);
}

const save = (edited) => queued(() => decide(edited ? "edit" : "accept", edited ? { edited } : {}));

/** Decide as `author` did. */
const follow = (author) => queued(() => {
  const { verdict, edited, note } = current().by[author];
  return decide(verdict, { edited, note });
});

async function takeBack(answer) {
  if (!answer.row) {
    tell(say("told_nothing"));
    return;
  }
  if (await settle(answer.standing, answer.row)) return;
  jump(answer.row.number);
  await arrive();
  tell(say("told_undo", { number: written(answer.row.number + 1) }));
}

let opening = 0; // fields that are about to open: what is typed meanwhile is meant for them, and decides nothing

function opens(open) {
  opening += 1;
  queued(() => {
    opening -= 1;
    if (current()) open();
  });
}

const acts = {
  accept: () => queued(() => decide("accept")),
  edit: () => opens(() => editor.open(current(), start.author, save, () => queued(arrive))),
  reject: () => opens(() => askReason(start, (note) => queued(() => decide("reject", { note })))),
  digit: (which) => queued(() => chooseReason(start, which)),
  undo: () => queued(async () => takeBack(await post("undo", { since: standing.revision }))),
  back: () => queued(async () => {
    const row = current();
    if (row && start.author in row.by) await takeBack(await post("decide", { row: row.id, verdict: "undo", since: standing.revision }));
    else tell(say("told_nothing"));
  }),
  next: () => queued(() => go(queue.at + 1)),
  previous: () => queued(() => go(queue.at - 1)),
  first: (key) => queued(() => go(key === "Home" ? 0 : queue.numbers.length - 1)),
  filters: () => showFilters("state"),
  search: () => showFilters("search"),
  clear: () => {
    setWanted({}); // at once: what is typed next stays
    queued(() => find());
  },
  follow: () => {
    const others = Object.keys(current()?.by ?? {}).filter((author) => author !== start.author);
    if (current()?.state === "conflict") follow(others[0]);
  },
  plan: () => queued(openPlan),
  language: () => queued(() => useLanguage(document.documentElement.lang === "en" ? "zh" : "en")),
  theme: nextTheme,
  help: () => by("help").showModal(),
};

// Filters and the sample

function showFilters(name) {
  document.body.classList.add("filtering");
  by("open-filters").setAttribute("aria-expanded", "true");
  by("filters").elements[name].focus();
}

function hideFilters() {
  document.body.classList.remove("filtering");
  by("open-filters").setAttribute("aria-expanded", "false");
  by("row").focus();
}

async function openPlan() {
  drawPlan(await fetchPlan(), standing, start.author);
  if (!by("plan").open) by("plan").showModal();
}

async function lot(name) {
  await post(name, name === "accept-lot" ? asked : {});
  await refresh();
  draw();
  tell(say(name === "accept-lot" ? "told_lot" : "undo_lot"));
  await openPlan();
}

// What others do, and the page itself

/** Learn what has changed on the server, by this reviewer or another. */
async function refresh() {
  await settle(await get("standing", { since: standing.revision }));
}

/** Take `news` as it stands now; `row` came with it. True where all rows are new, and the list has begun anew. */
async function settle(news, row) {
  if (news.digest !== standing.digest) {
    queue.rows.clear();
    await open();
    await find();
    banner(say("rows_new"));
    return true;
  }
  standing = news;
  if (row) take(row);
  await renew(news.changed.filter((one) => one !== row?.number));
  if (plan && news.changed.length) {
    plan = await fetchPlan();
    const known = new Set(queue.numbers);
    queue.numbers.push(...plan.numbers_left.filter((one) => !known.has(one))); // a bad row has made it larger
  }
  return false;
}

async function look() {
  if (document.hidden) return;
  const before = standing.revision;
  await refresh();
  if (standing.revision !== before) draw();
  if (unreachable) banner(""); // what it said is over; anything else stays until the reviewer goes on
  unreachable = false;
}

async function open() {
  start = await get("start", { lang: document.documentElement.lang });
  standing = await get("standing");
  by("file").textContent = start.file;
  by("author").textContent = say("as_author", { author: start.author });
  fillFilters(start);
  fillPlan(start, () => queued(openPlan));
}

async function useLanguage(code) {
  document.documentElement.lang = code;
  remember("language", code);
  const chosen = { ...asked };
  write();
  by("language").textContent = say("other_language");
  fillHelp();
  writeTheme();
  if (start) {
    await open();
    Object.assign(asked, chosen);
    shown = null;
    draw();
  }
}

function listen() {
  watchKeys(acts, () => opening > 0);
  watchFilters(() => queued(() => find(null, false)), hideFilters);
  for (const button of by("actions").querySelectorAll("button")) button.onclick = () => acts[button.dataset.do]();
  by("clear").onclick = acts.clear;
  by("language").onclick = acts.language;
  by("theme").onclick = acts.theme;
  by("open-help").onclick = acts.help;
  by("open-plan").onclick = acts.plan;
  by("open-filters").onclick = () => (document.body.classList.contains("filtering") ? hideFilters() : showFilters("state"));
  by("accept-lot").onclick = () => queued(() => lot("accept-lot"));
  by("undo-lot").onclick = () => queued(() => lot("undo-lot"));
  by("show-sample").onclick = () => {
    by("plan").close();
    queued(() => find({ sample: "1" }));
  };
  for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target === by("row")) by("row").querySelector(".end button")?.click();
  });
}

async function main() {
  const given = new URLSearchParams(location.search).get("lang");
  await useLanguage(given && WORDS[given] ? given : remembered("language") ?? document.documentElement.lang);
  listen();
  await open();
  const filters = inAddress();
  await find(Object.keys(filters).length ? filters : start.sample.error_rate ? { sample: "1" } : { state: "undecided" });
  document.body.dataset.ready = "yes";
  setInterval(() => {
    under_way = under_way.then(look).catch(failed);
  }, EVERY);
}

queued(main);
