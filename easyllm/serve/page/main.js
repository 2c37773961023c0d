// The chat: what each key and button does.
import * as answering from "./answering.js";
import { add, create, isBare, same, show, takeIn, titleOf } from "./conversation.js";
import { banner, by, remember, remembered } from "./dom.js";
import * as files from "./files.js";
import { watchKeys } from "./keys.js";
import { openSettings, showSide, watchHeights, writeAll } from "./panels.js";
import { say, written } from "./say.js";
import { HERE, isOrigin, models, setKey } from "./server.js";
import { drawSettings, problem } from "./settings.js";
import { drawList } from "./sidebar.js";
import { tell } from "./speak.js";
import * as store from "./store.js";
import { nextTheme } from "./theme.js";
import { drawThread, editLast, fill, grow, nameOf, onEnter, placeOf, troubleText } from "./thread.js";

const other = new URLSearchParams(location.search).get("other"); // the second server, which the policy lets us ask
let columns = []; // every model that can be asked: { server, model }
let conversations = [];
let conversation;
const unkept = new Set(); // conversations that have begun, or in whose field something was written, since they were kept

// What is kept

function keep(one = conversation) {
  unkept.delete(one);
  if (!conversations.includes(one)) return; // deleted while its answer was under way
  if (!store.keep(one)) banner(say("full"));
}

function keepUnkept() {
  for (const one of unkept) keep(one);
}

function setCurrent(one) {
  conversation = one;
  if (!conversations.includes(one)) {
    conversations.unshift(one);
    unkept.add(one);
  }
  try {
    sessionStorage.setItem("easyllm.current", one.id);
  } catch {
    // the latest one comes back instead
  }
}

function lastCurrent() {
  try {
    return conversations.find((one) => one.id === sessionStorage.getItem("easyllm.current")) ?? conversations[0];
  } catch {
    return conversations[0];
  }
}

/**
 * Take in what other windows have stored and deleted. A conversation stays the object it is: an answer may be under way
 * in it, its name half typed, a dialog open that asks about it.
 */
function catchUp() {
  const [shown, before] = [conversation, JSON.stringify(conversation)];
  const known = new Map(conversations.map((one) => [one.id, one]));
  conversations = [];
  for (const fresh of store.all()) {
    const ours = known.get(fresh.id) ?? fresh;
    conversations.push(ours);
    if (ours === conversation || unkept.has(ours)) fresh.draft = ours.draft;
    const ahead = store.isAhead(ours);
    if (ours !== fresh && takeIn(ours, fresh, answering.running, ahead) && !ahead) keep(ours);
  }
  for (const one of known.values()) {
    if (conversations.includes(one)) continue;
    // One that has only begun was never there for the other window to see.
    if (!one.turns.length && (one === conversation || unkept.has(one))) conversations.unshift(one);
    else answering.stopIn(one);
  }
  keepRest();
  if (!conversations.includes(conversation)) setCurrent(conversations[0] ?? create(conversation.settings));
  if (conversation !== shown || JSON.stringify(conversation) !== before) {
    if (conversation !== shown || !document.querySelector(".editor")) drawThread(conversation, turnActs);
    drawAround();
  }
  drawButtons();
  if (!document.querySelector("#list input")) listActs.redraw();
}

function keepRest() {
  if (store.keepRest()) banner("");
}

// What is drawn

function draw() {
  drawAround();
  drawThread(conversation, turnActs);
  drawList(conversations, conversation, listActs);
}

function drawAround() {
  chooseColumns();
  drawSettings(conversation, (values) => {
    Object.assign(conversation.settings, values);
    keep();
  });
  by("prompt").value = conversation.draft;
  grow(by("prompt"));
  drawButtons();
}

function drawButtons() {
  by("send").hidden = answering.isRunning();
  by("stop").hidden = !answering.isRunning();
  const said = files.rowsOf(conversation).length > 0;
  by("export-rows").disabled = by("export-markdown").disabled = !said;
  by("export-all").disabled = !said && conversations.every((one) => !one.turns.length);
}

/** The models of the conversation, where they are to be had; the first there is, where they are not. */
function chooseColumns() {
  const wanted = conversation.settings.columns.map((one) => columns.find((column) => same(column, one)));
  const first = wanted[0] ?? columns[0];
  if (!first) return;
  conversation.settings.columns = wanted[1] ? [first, wanted[1]] : [first];
  fillSelect("model", columns, first);
  fillSelect("compare", [null, ...columns], wanted[1] ?? null);
}

function fillSelect(id, choices, chosen) {
  by(id).replaceChildren(...choices.map((column, at) => new Option(column ? nameOf(column) : say("compare_none"), String(at))));
  by(id).selectedIndex = choices.indexOf(chosen);
}

function columnsChosen() {
  const second = columns[by("compare").selectedIndex - 1];
  conversation.settings.columns = [columns[by("model").selectedIndex], ...(second ? [second] : [])];
  keep();
}

const nearEnd = () => window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 120;
const toEnd = () => window.scrollTo(0, document.documentElement.scrollHeight);

function drawAnswer(turn, answer) {
  if (answer === null) {
    draw();
    toEnd();
    return;
  }
  const place = placeOf(turn, answer);
  if (!place) return; // another conversation is shown
  const follow = nearEnd();
  fill(place, turn, answer, turnActs);
  if (follow) toEnd();
}

// What is asked

/** Say a prompt after `parent`. False where it cannot be said now; it then stays where it was typed. */
function ask(parent, prompt, again = null) {
  if (answering.isRunning()) {
    tell(say("wait_answer"));
    return false;
  }
  const found = problem();
  if (found) {
    openSettings(true);
    found.field.focus();
    return false;
  }
  if (!conversation.settings.columns.length) {
    loadModels();
    return false;
  }
  banner("");
  if (again) conversation.turns.splice(conversation.turns.indexOf(again), 1);
  begin(conversation, add(conversation, parent, prompt));
  return true;
}

async function begin(one, turn) {
  const done = answering.run(one, turn, { draw: drawAnswer, keep });
  keep(one);
  await done;
  one.changed = Date.now();
  keep(one);
  if (document.activeElement === by("stop")) by("prompt").focus();
  drawButtons();
  drawList(conversations, conversation, listActs);
  const locked = turn.answers.find((answer) => answer.trouble?.code === "key");
  if (locked && conversation === one) openKey(locked.server, () => turnActs.ask(turn, turn.prompt));
}

const turnActs = {
  running: answering.running,
  /** The prompt in the place of `turn`: a branch, unless nothing had come of it or after it. */
  ask(turn, prompt) {
    const now = conversation.turns.find(({ id }) => id === turn.id); // as another window may have left it
    return ask(turn.parent, prompt, now && isBare(conversation, now) ? now : null);
  },
  show(turn, name) {
    show(conversation, turn);
    keep();
    draw();
    const place = document.querySelector(`[data-turn="${turn.id}"]`);
    (place.querySelector(`[data-do=${name}]:enabled`) ?? place.querySelector("[data-do=edit]")).focus();
  },
  redraw(id) {
    drawThread(conversation, turnActs);
    document.querySelector(`[data-turn="${id}"] [data-do=edit]`)?.focus();
  },
};

function send() {
  const prompt = by("prompt").value;
  if (!prompt.trim() || !ask(conversation.at, prompt)) return;
  conversation.draft = by("prompt").value = "";
  keep();
  grow(by("prompt"));
}

// Which conversation

function open(one) {
  setCurrent(one);
  banner("");
  draw();
  toEnd();
  showSide(false);
  by("prompt").focus();
}

const listActs = {
  open,
  redraw: () => drawList(conversations, conversation, listActs),
  rename(one, title) {
    one.title = title;
    keep(one);
    listActs.redraw();
  },
  remove(one) {
    by("sure-title").textContent = say("sure", { title: titleOf(one) });
    by("sure-delete").onclick = () => {
      by("sure").close();
      answering.stopIn(one);
      store.forget(one);
      conversations = conversations.filter(({ id }) => id !== one.id);
      keepRest();
      if (one === conversation) open(conversations[0] ?? create(one.settings));
      else listActs.redraw();
    };
    by("sure").showModal();
  },
};

function startNew() {
  open(conversations.find((one) => !one.turns.length) ?? create(conversation.settings));
}

// Servers and keys

async function loadModels() {
  const found = [];
  for (const server of other ? [HERE, other] : [HERE]) {
    try {
      found.push(...(await models(server)).map((model) => ({ server, model })));
    } catch (error) {
      if (!error.code) console.error(error);
      banner(troubleText({ code: error.code ?? "broken", detail: error.message, seconds: null }, { server, model: "" }));
      if (error.code === "key") openKey(server, loadModels);
    }
  }
  columns = found;
  if (!document.querySelector(".editor")) draw();
}

function openKey(server, then) {
  by("key-about").textContent = say("key_about", { server: server || location.host });
  by("key-text").value = "";
  by("key-form").onsubmit = async () => {
    setKey(server, by("key-text").value.trim());
    banner("");
    if (then !== loadModels) await loadModels();
    then();
  };
  if (!by("key").open) by("key").showModal();
}

/** Reload the page with a policy that allows the typed server, and no other. */
function connect() {
  const typed = by("other-form").elements.other.value.trim();
  const address = URL.parse?.(typed) ?? null;
  if (typed && !isOrigin(address?.origin ?? "")) {
    by("other-problem").textContent = say("other_wrong");
    return;
  }
  remember("easyllm.other", address ? address.origin : "");
  location.assign(address ? `chat?other=${encodeURIComponent(address.origin)}` : "chat");
}

// Files

async function take() {
  const [file] = by("import-file").files;
  by("import-file").value = ""; // the same file may be chosen again
  try {
    const found = files.read(await file.text(), conversation.settings);
    for (const one of found.toReversed()) {
      conversations.unshift(one);
      keep(one);
    }
    if (found.length) open(found[0]);
    tell(say("told_imported", { count: written(found.length) }));
  } catch (error) {
    if (!(error instanceof files.Unreadable)) throw error;
    banner(say("unreadable", { file: file.name, line: written(error.line) }));
  }
}

const saveRows = (name, rows) => files.save(name, files.asLines(rows), "application/jsonl");

// Keys and buttons

function setLanguage(language) {
  document.documentElement.lang = language;
  remember("easyllm.language", language);
  writeAll();
  draw();
}

const keyActs = {
  write: () => by("prompt").focus(),
  new: startNew,
  again: () => [...document.querySelectorAll("[data-do=again]")].at(-1)?.click(),
  edit: editLast,
  find() {
    showSide(true);
    by("search").focus();
  },
  settings() {
    openSettings(by("settings").hidden);
    if (!by("settings").hidden) by("settings-form").elements.system.focus();
  },
  language: () => setLanguage(document.documentElement.lang === "zh" ? "en" : "zh"),
  theme: nextTheme,
  help: () => by("help").showModal(),
  escape() {
    if (answering.isRunning()) answering.stop();
    else {
      showSide(false);
      if (matchMedia("(max-width: 60rem)").matches) openSettings(false); // it covers the conversation there
      by("thread").focus({ preventScroll: true });
    }
  },
};

function listen() {
  by("composer").onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  onEnter(by("prompt"), send);
  by("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" || by("prompt").value) return;
    event.preventDefault();
    editLast();
  });
  by("prompt").oninput = () => {
    conversation.draft = by("prompt").value;
    unkept.add(conversation);
    grow(by("prompt"));
  };
  addEventListener("pagehide", keepUnkept);
  addEventListener("pageshow", (event) => event.persisted && catchUp()); // it heard of nothing while it was left
  by("stop").onclick = answering.stop;
  by("new").onclick = startNew;
  by("search").oninput = listActs.redraw;
  by("model").onchange = by("compare").onchange = columnsChosen;
  by("open-side").onclick = () => showSide(!document.body.classList.contains("listing"));
  by("open-settings").onclick = keyActs.settings;
  by("language").onclick = keyActs.language;
  by("theme").onclick = nextTheme;
  by("open-help").onclick = keyActs.help;
  by("other-form").onsubmit = (event) => {
    event.preventDefault();
    connect();
  };
  by("settings-form").onsubmit = (event) => event.preventDefault();
  by("open-key").onclick = () => openKey(other ?? HERE, loadModels);
  by("export-rows").onclick = () => saveRows(files.fileName(conversation, "jsonl"), files.rowsOf(conversation));
  by("export-all").onclick = () => saveRows("chat.jsonl", conversations.flatMap(files.rowsOf));
  by("export-markdown").onclick = () =>
    files.save(files.fileName(conversation, "md"), files.asMarkdown(conversation), "text/markdown");
  by("import").onclick = () => by("import-file").click();
  by("import-file").onchange = take;
  for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();
  store.watch(catchUp);
  watchKeys(keyActs);
}

async function begins() {
  let wanted = remembered("easyllm.other");
  if (wanted && !isOrigin(wanted)) {
    wanted = null; // of an older page: the server would not send this one for it
    remember("easyllm.other", "");
  }
  if (wanted && wanted !== other) {
    location.replace(`chat?other=${encodeURIComponent(wanted)}`);
    return;
  }
  const language = remembered("easyllm.language") ?? navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => ["en", "zh"].includes(tag));
  document.documentElement.lang = language ?? "en";
  conversations = store.all();
  setCurrent(lastCurrent() ?? create());
  writeAll();
  openSettings(remembered("easyllm.settings") === "open" && window.innerWidth > 1100);
  by("other-form").elements.other.value = wanted ?? "";
  listen();
  watchHeights();
  await loadModels();
  toEnd();
  by("prompt").focus();
  document.body.dataset.ready = "";
}

begins();
