// Conversations as files: rows that easyllm's finetune trains on, and Markdown to read.
import { add, create, path, said, titleOf } from "./conversation.js";
import { el } from "./dom.js";
import { say } from "./say.js";
import { nameOf } from "./thread.js";

/** One row for each model that has answered the last turn, with its own answers. */
export function rowsOf(conversation) {
  const turns = path(conversation);
  const columns = turns.findLast((turn) => turn.answers.some((answer) => answer.text.trim()))?.answers ?? [];
  return columns.filter((answer) => answer.text.trim()).map((answer) => ({
    messages: said(conversation, turns, answer), title: titleOf(conversation), model: nameOf(answer),
  }));
}

export const asLines = (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

export function asMarkdown(conversation) {
  const { system } = conversation.settings;
  const parts = [`# ${titleOf(conversation)}`];
  if (system.trim()) parts.push(`## ${say("system")}`, system);
  for (const turn of path(conversation)) {
    parts.push(`## ${say("you")}`, turn.prompt);
    for (const answer of turn.answers) if (answer.text.trim()) parts.push(`## ${nameOf(answer)}`, answer.text);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Hand a text to the browser as a file. */
export function save(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A name every file system takes. */
export function fileName(conversation, ending) {
  const title = titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  return `${title || "chat"}.${ending}`;
}

export class Unreadable extends Error {
  constructor(line) {
    super(`line ${line}`);
    this.line = line;
  }
}

/** The conversations of a file: a row a line, or a list of rows. Throws Unreadable, and then nothing is taken. */
export function read(text, settings) {
  const list = text.trimStart().startsWith("[");
  const rows = list ? parsed(text, 1) : text.split("\n").map((line, at) => line.trim() && parsed(line, at + 1));
  if (!Array.isArray(rows)) throw new Unreadable(1);
  return rows.flatMap((row, at) => (row === "" ? [] : [conversationOf(row, at + 1, settings)]));
}

function parsed(text, line) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Unreadable(line);
  }
}

function conversationOf(row, line, settings) {
  const messages = Array.isArray(row?.messages) ? [...row.messages] : null;
  if (!messages?.length || !messages.every((message) => typeof message?.content === "string")) throw new Unreadable(line);
  const system = messages[0].role === "system" ? messages.shift().content : "";
  const model = typeof row.model === "string" ? row.model : say("imported");
  const made = create({ ...settings, system });
  if (typeof row.title === "string") made.title = row.title.slice(0, 80);
  for (let at = 0; at < messages.length; at += 2) {
    const [asked, answer] = [messages[at], messages[at + 1]];
    if (asked.role !== "user" || answer?.role !== "assistant") throw new Unreadable(line);
    const turn = add(made, made.at, asked.content);
    turn.answers = [{ server: "", model, text: answer.content, finish: "stop", trouble: null }];
  }
  if (!made.turns.length) throw new Unreadable(line);
  return made;
}
