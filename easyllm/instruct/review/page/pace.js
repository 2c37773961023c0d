// How far the review is, and how long it takes at the reviewer's own pace.
import { by, el } from "./dom.js";
import { percent, say, written } from "./say.js";

const PAUSE = 5 * 60_000; // a longer gap between two decisions was a break
const LATEST = 40;
const ENOUGH = 3;

const gaps = [];
let last = 0;

export function decidedNow() {
  const now = performance.now();
  if (last && now - last < PAUSE) gaps.push(now - last);
  if (gaps.length > LATEST) gaps.shift();
  last = now;
}

/** Draw the bar and the counts; `plan` is the sample's where one is reviewed. */
export function drawProgress(standing, plan) {
  const { counts } = standing;
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const done = counts.accepted + counts.rejected;
  const bar = by("bar");
  const parts = ["accepted", "rejected", "conflict"].filter((state) => counts[state]);
  bar.replaceChildren(...parts.map((state) => {
    const part = el("span", { class: state });
    part.style.flexGrow = counts[state];
    return part;
  }));
  const rest = el("span", { class: "undecided" });
  rest.style.flexGrow = counts.undecided;
  bar.append(rest);
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", done);
  bar.setAttribute("aria-valuetext", say("progress_text", { done: written(done), total: written(total) }));
  const named = Object.fromEntries(Object.entries(counts).map(([state, count]) => [state, written(count)]));
  by("counts").textContent = say("counts", named) + (counts.conflict ? say("counts_conflict", named) : "");
  by("pace").textContent = [plan ? sampleLine(plan) : "", eta(plan ? plan.left : counts.undecided)].filter(Boolean).join(" · ");
}

export function sampleLine(plan) {
  return say("sample_line", {
    decided: written(plan.decided), needed: written(plan.needed), defects: written(plan.defects),
    bound: plan.decided ? percent(plan.bound) : "–",
  });
}

function eta(left) {
  if (gaps.length < ENOUGH || !left) return "";
  const middle = [...gaps].sort((a, b) => a - b)[Math.floor(gaps.length / 2)];
  const minutes = Math.max(1, Math.round((middle * left) / 60_000));
  const time = minutes < 90 ? say("minutes", { n: minutes }) : say("hours", { n: written(Math.round(minutes / 6) / 10) });
  return say("eta", { time });
}
