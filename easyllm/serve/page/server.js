// What servers are asked. A failure is a Trouble, whose `code` is a text of words.js: trouble_<code>.

export const HERE = ""; // the server that sent this page; any other goes by its origin

const ORIGIN = /^https?:\/\/([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$/; // what page_routes.py takes

/** Whether the page can be had with a policy that allows this origin. */
export const isOrigin = (text) => ORIGIN.test(text);

export class Trouble extends Error {
  constructor(code, detail = "", seconds = null) {
    super(detail);
    this.code = code;
    this.seconds = seconds;
  }
}

const address = (server, name) => (server === HERE ? new URL(`v1/${name}`, document.baseURI) : `${server}/v1/${name}`);

// Keys live as long as the window, and go to their own server only.

const keyName = (server) => `easyllm.key.${server}`;
const keys = new Map();

export function setKey(server, key) {
  keys.set(server, key);
  try {
    sessionStorage.setItem(keyName(server), key);
  } catch {
    // kept by the page alone
  }
}

function keyOf(server) {
  try {
    return keys.get(server) ?? sessionStorage.getItem(keyName(server));
  } catch {
    return null;
  }
}

/** The names of the models a server has. */
export async function models(server) {
  const response = await ask(server, "models");
  const found = await response.json().catch(() => null);
  if (!Array.isArray(found?.data)) throw new Trouble("stranger");
  return found.data.map((card) => String(card.id));
}

/** Ask for an answer; `tell(text)` gets each new piece. Returns why it ended, and the tokens it has, where told. */
export async function answer({ server, model }, messages, settings, signal, tell) {
  const body = { model, messages, ...settings, stream: true, stream_options: { include_usage: true } };
  const response = await ask(server, "chat/completions", body, signal);
  let finish = null;
  let tokens = null;
  let done = false;
  for await (const data of events(response, signal)) {
    if (data === "[DONE]") {
      done = true;
      continue;
    }
    const chunk = read(data);
    if (chunk.error) throw new Trouble("broken", String(chunk.error.message ?? chunk.error));
    tokens = chunk.usage?.completion_tokens ?? tokens;
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) tell(choice.delta.content);
    finish = choice?.finish_reason ?? finish;
  }
  if (!finish && !done) throw new Trouble("gone");
  return { finish: finish ?? "stop", tokens };
}

function read(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Trouble("stranger");
  }
}

/** The data of each server-sent event. */
async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw signal.aborted ? error : new Trouble("gone", error.message);
    });
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}

async function ask(server, name, body = null, signal = null) {
  const key = keyOf(server);
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  const given = { headers, signal, credentials: "omit", cache: "no-store" };
  let response;
  try {
    response = await fetch(address(server, name), body ? { ...given, method: "POST", body: JSON.stringify(body) } : given);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(server === HERE ? "gone" : "gone_other", error.message);
  }
  if (!response.ok) throw await troubleOf(response);
  return response;
}

async function troubleOf(response) {
  const told = await response.json().catch(() => ({}));
  const error = told.error ?? told;
  const detail = String(error.message ?? told.error ?? told.detail ?? response.statusText);
  const seconds = Number(response.headers.get("Retry-After")) || null;
  const { status } = response;
  // Our own 403 is about the page's address, which no key cures; a proxy's may be about its key.
  if (status === 401 || (status === 403 && error.type !== "permission_error")) return new Trouble("key", detail);
  if (status === 429) return new Trouble("busy", detail, seconds);
  if (status === 503) return new Trouble("loading", detail, seconds);
  if (status === 404) return new Trouble("missing", detail);
  if (status === 413 || error.code === "context_length_exceeded") return new Trouble("long", detail);
  return new Trouble(status < 500 ? "refused" : "broken", detail);
}
