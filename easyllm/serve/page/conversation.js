// A conversation is a tree of turns: a prompt, and an answer of each model that was asked. What is asked anew, in the
// same words or in others, becomes a branch beside the old one.

const identity = () => crypto.getRandomValues(new Uint32Array(3)).join("-"); // randomUUID wants a secure origin

export const EMPTY = {
  system: "", temperature: "", top_p: "", max_tokens: "", seed: "", top_k: "", repetition_penalty: "",
  frequency_penalty: "", presence_penalty: "", stop: "", columns: [],
};

export function create(settings = EMPTY) {
  return { id: identity(), title: "", changed: Date.now(), at: null, turns: [], draft: "", settings: { ...settings } };
}

const turnOf = (conversation, id) => conversation.turns.find((turn) => turn.id === id);

/** The turns that are shown, from the first to the last. */
export function path(conversation, end = conversation.at) {
  const found = [];
  for (let turn = turnOf(conversation, end); turn; turn = turnOf(conversation, turn.parent)) found.unshift(turn);
  return found;
}

/** The branches that begin where this turn does, itself among them. */
export function branches(conversation, turn) {
  return conversation.turns.filter((other) => other.parent === turn.parent);
}

/** A turn after `parent`, shown now; nothing has been answered yet. */
export function add(conversation, parent, prompt) {
  const answers = conversation.settings.columns.map((column) => ({ ...column, text: "", finish: null, trouble: null }));
  const turn = { id: identity(), parent, prompt, answers };
  conversation.turns.push(turn);
  conversation.at = turn.id;
  conversation.changed = Date.now();
  return turn;
}

/** Show a branch, to the end of what was said last in it. */
export function show(conversation, turn) {
  let end = turn;
  for (let next = end; next; next = conversation.turns.findLast((other) => other.parent === end.id)) end = next;
  conversation.at = end.id;
}

/** Whether a turn may be asked again in its own place: nothing came of it, and nothing was said after it. */
export function isBare(conversation, turn) {
  return turn.answers.every((answer) => !answer.text) && !conversation.turns.some((other) => other.parent === turn.id);
}

/**
 * Take what another window has stored of a conversation into `ours`, which stays the object it is. Only bare turns are
 * ever taken away and answers only grow, so of each turn the copy that has more stays, and a turn that the other window
 * had not seen when it stored is no turn that it deleted. Where `ahead`, name and settings stay ours as well. Returns
 * whether `ours` now has something that should be stored again.
 */
export function takeIn(ours, fresh, running, ahead) {
  const has = (turn) => JSON.stringify(turn.answers).length;
  const isRunning = (turn) => turn.answers.some(running);
  const before = new Map(ours.turns.map((turn) => [turn.id, turn]));
  const stored = new Map(fresh.turns.map((turn) => [turn.id, turn]));
  const unseen = ours.turns.filter((turn) => !stored.has(turn.id) && (ahead || isRunning(turn) || !isBare(ours, turn)));
  const turns = fresh.turns.map((turn) => {
    const own = before.get(turn.id);
    return own && has(own) >= has(turn) ? own : turn;
  });
  turns.push(...unseen);
  const stays = ours.turns.some(isRunning) && turns.some((turn) => turn.id === ours.at);
  Object.assign(ours, ahead ? {} : { ...fresh, at: stays ? ours.at : fresh.at }, { turns });
  // What is under way is stored again and again anyhow; two windows that answered each other's would never rest.
  return ours.turns.some((turn) => !isRunning(turn) && !(stored.has(turn.id) && has(stored.get(turn.id)) >= has(turn)));
}

/** What a column is sent: all before `turn` in the words of its own model, where that has answered, and the prompt. */
export function messages(conversation, turn, column) {
  const found = said(conversation, path(conversation, turn.parent), column);
  return [...found, { role: "user", content: turn.prompt }];
}

/** The turns as messages; one that nobody answered is left out. */
export function said(conversation, turns, column) {
  const { system } = conversation.settings;
  const found = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const told = turn.answers.filter((answer) => answer.text.trim());
    const answer = told.find((one) => same(one, column)) ?? told[0];
    if (answer) found.push({ role: "user", content: turn.prompt }, { role: "assistant", content: answer.text });
  }
  return found;
}

export const same = (one, other) => one.server === other.server && one.model === other.model;

/** Its name, or the beginning of what was said first. */
export function titleOf(conversation) {
  const first = conversation.title || conversation.turns[0]?.prompt || "";
  return first.trim().split("\n")[0].slice(0, 80);
}

/** Whether the words are in its title, its prompts or its answers. */
export function holds(conversation, words) {
  const wanted = words.trim().toLowerCase();
  const texts = conversation.turns.flatMap((turn) => [turn.prompt, ...turn.answers.map((answer) => answer.text)]);
  return [conversation.title, ...texts].some((text) => text.toLowerCase().includes(wanted));
}
