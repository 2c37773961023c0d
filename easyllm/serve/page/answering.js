// Answers under way: begun, drawn and told as they grow, stopped.
import { messages } from "./conversation.js";
import { say } from "./say.js";
import * as server from "./server.js";
import { asParameters } from "./settings.js";
import { tell, teller } from "./speak.js";
import { nameOf, troubleText } from "./thread.js";

const TELL_EVERY = 2000; // milliseconds between two looks for whole sentences, and between two savings
const SHORTEST = 0.5; // seconds; what comes faster comes in one packet, and says nothing of the speed

const under_way = new Map(); // answer: what aborts it

export const running = (answer) => under_way.has(answer);
export const isRunning = () => under_way.size > 0;

/** The server sees the connection end, and its engine stops. */
export function stop() {
  for (const controller of under_way.values()) controller.abort();
}

/** Stop the answers of one conversation. */
export function stopIn(conversation) {
  for (const turn of conversation.turns) for (const answer of turn.answers) under_way.get(answer)?.abort();
}

/**
 * Ask every model of a turn at once. `shows` has draw(turn, answer), which is called as the text grows, and
 * keep(conversation). Resolves when the last answer has ended, however it ended.
 */
export async function run(conversation, turn, shows) {
  tell(say("told_asked", { model: turn.answers.map(nameOf).join(", ") }));
  const parameters = asParameters(conversation.settings);
  const asked = turn.answers.map((answer) => one(conversation, turn, answer, parameters, shows));
  shows.draw(turn, null);
  await Promise.all(asked);
}

async function one(conversation, turn, answer, parameters, shows) {
  const controller = new AbortController();
  under_way.set(answer, controller);
  const alone = turn.answers.length === 1;
  const voice = teller();
  const draw = paced(() => shows.draw(turn, answer));
  const often = setInterval(() => {
    if (alone) voice.add(answer.text); // two at once would talk over each other
    shows.keep(conversation);
  }, TELL_EVERY);
  let first = null;
  try {
    const { finish, tokens } = await server.answer(
      answer, messages(conversation, turn, answer), parameters, controller.signal, (text) => {
        first ??= performance.now();
        answer.text += text;
        draw();
      });
    const seconds = (performance.now() - first) / 1000;
    const speed = tokens > 1 && seconds > SHORTEST ? (tokens - 1) / seconds : null;
    Object.assign(answer, { finish, tokens, speed });
  } catch (error) {
    if (!controller.signal.aborted) answer.trouble = asTrouble(error);
  }
  clearInterval(often);
  under_way.delete(answer);
  draw.end();
  if (!alone) tell(nameOf(answer));
  voice.end(answer.text);
  if (controller.signal.aborted) tell(say("stopped"));
  if (answer.trouble) tell(troubleText(answer.trouble, answer));
}

function asTrouble(error) {
  if (!(error instanceof server.Trouble)) console.error(error);
  return { code: error.code ?? "broken", detail: error.message, seconds: error.seconds ?? null };
}

/** `work`, not more often than the page can bear: a long text takes longer to draw, and is drawn more rarely. */
function paced(work) {
  let timer = null;
  let rest = 40; // milliseconds
  const now = () => {
    timer = null;
    const began = performance.now();
    work();
    rest = Math.max(40, 4 * (performance.now() - began));
  };
  const asked = () => (timer ??= setTimeout(now, rest));
  asked.end = () => {
    clearTimeout(timer);
    now();
  };
  return asked;
}
