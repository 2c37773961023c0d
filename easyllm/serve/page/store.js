// Conversations in this browser, one entry each, so that two windows do not write over each other's.

const PREFIX = "easyllm.chat.";

const memory = new Map(); // what the browser has no room for, until it has or the page is closed

/** Every conversation, the one that changed last first. An entry that is not ours to read is left alone. */
export function all() {
  const found = new Map(memory);
  for (const name of names()) {
    const conversation = parsed(localStorage.getItem(name));
    if (conversation) found.set(conversation.id, conversation);
  }
  return [...found.values()].sort((one, other) => other.changed - one.changed);
}

/** Keep it. False where the browser has no room or no right to: it then lives as long as the page. */
export function keep(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    memory.delete(conversation.id);
    return true;
  } catch {
    memory.set(conversation.id, conversation);
    return false;
  }
}

/** Whether this page has it newer than the browser, which had no room. */
export const isAhead = (conversation) => memory.has(conversation.id);

/** Keep what the browser had no room for, if it has now. True where all of it, and there was some, is kept. */
export function keepRest() {
  const waiting = [...memory.values()];
  return waiting.length > 0 && waiting.map((conversation) => keep(conversation)).every(Boolean);
}

export function forget(conversation) {
  memory.delete(conversation.id);
  if (names().length) localStorage.removeItem(PREFIX + conversation.id);
}

/** Call `changed` when another window has kept or forgotten something. */
export function watch(changed) {
  addEventListener("storage", (event) => {
    if (event.key !== null && !event.key.startsWith(PREFIX)) return;
    if (event.key !== null && event.newValue === null) memory.delete(event.key.slice(PREFIX.length)); // deleted there
    changed();
  });
}

function names() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
  } catch {
    return [];
  }
}

function parsed(text) {
  try {
    const found = JSON.parse(text);
    return Array.isArray(found.turns) && found.settings ? found : null;
  } catch {
    return null;
  }
}
