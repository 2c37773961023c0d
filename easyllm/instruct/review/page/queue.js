// The rows to go through: their numbers as they were found, where the reviewer is, and the rows fetched so far.
import { get } from "./api.js";

const BEHIND = 20;
const AHEAD = 40;
const SOON = 10; // rows ahead that must be here already

export const queue = {
  numbers: [],
  at: 0, // numbers.length: past the end
  rows: new Map(),
};

export const number = () => queue.numbers[queue.at];
export const current = () => queue.rows.get(number());
export const near = () => queue.numbers.slice(Math.max(0, queue.at - BEHIND), queue.at + AHEAD);

/** Begin a list, at the row numbered `first` where it is in it. */
export function begin(numbers, first) {
  queue.numbers = numbers;
  queue.at = Math.max(0, numbers.indexOf(first));
}

/** Fetch what is missing around the reviewer, in one request; waits only when the next rows are not here. */
export async function load() {
  const soon = queue.numbers.slice(queue.at, queue.at + SOON);
  if (soon.every((wanted) => queue.rows.has(wanted)) && near().filter((wanted) => !queue.rows.has(wanted)).length < AHEAD / 2) return;
  await fetchRows(near().filter((wanted) => !queue.rows.has(wanted)));
}

/** Fetch anew those of `numbers` that are here already. */
export async function renew(numbers) {
  const stale = numbers.filter((changed) => queue.rows.has(changed));
  const kept = new Set(near());
  for (const changed of stale) if (!kept.has(changed)) queue.rows.delete(changed);
  await fetchRows(stale.filter((changed) => kept.has(changed)));
}

export function take(row) {
  queue.rows.set(row.number, row);
}

/** Go to the next row that `author` has not decided on, or past the end. */
export function goOn(author) {
  do queue.at += 1;
  while (queue.at < queue.numbers.length && author in (current()?.by ?? {}));
}

export function move(to) {
  queue.at = Math.min(Math.max(0, to), queue.numbers.length);
}

/** Go to this row; it is put into the list where it is not in it. */
export function jump(to) {
  const at = queue.numbers.indexOf(to);
  if (at < 0) queue.numbers.splice(queue.at, 0, to);
  else queue.at = at;
}

async function fetchRows(numbers) {
  if (!numbers.length) return;
  for (const row of (await get("rows", { numbers: numbers.join(",") })).rows) take(row);
}
