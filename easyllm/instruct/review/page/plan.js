// The sample: how many rows to look at, what they say of all, and when the rest may be accepted.
import { get } from "./api.js";
import { by, el } from "./dom.js";
import { percent, say, written } from "./say.js";

const RATES = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1];
const CONFIDENCES = [0.8, 0.9, 0.95, 0.99];

export const asked = { error_rate: 0.02, confidence: 0.95 };

/** Take what the command line said, and offer it among the usual choices. */
export function fillPlan(start, changed) {
  asked.error_rate = start.sample.error_rate ?? asked.error_rate;
  asked.confidence = start.sample.confidence;
  choices("rate", RATES, "error_rate", changed);
  choices("confidence", CONFIDENCES, "confidence", changed);
}

function choices(id, usual, name, changed) {
  const all = [...new Set([...usual, asked[name]])].sort((a, b) => a - b);
  by(id).replaceChildren(...all.map((value) => el("option", { value }, percent(value))));
  by(id).value = String(asked[name]);
  by(id).onchange = () => {
    asked[name] = Number(by(id).value);
    changed();
  };
}

export const fetchPlan = () => get("plan", asked);

export function drawPlan(plan, standing, author) {
  const { counts, lot } = standing;
  const facts = [
    ["plan_sample", say("plan_sample_of", { needed: written(plan.needed), of: written(plan.of) })
      + (plan.needed > plan.first_needed ? ` (${say("plan_grew", { first: written(plan.first_needed) })})` : "")],
    ["plan_decided", written(plan.decided)],
    ["plan_defects", written(plan.defects)],
    ["plan_bound", plan.decided ? percent(plan.bound) : say("plan_no_bound")],
    ["plan_left", written(plan.left)],
  ];
  const told = [
    lot && say(lot.verdict === "accept-lot" ? "plan_lot" : "plan_all", { ...lot, error_rate: percent(lot.error_rate ?? 0), confidence: percent(lot.confidence ?? 0) }),
    !lot && plan.needed === plan.of && say("plan_whole"),
    !lot && plan.acceptable && say("plan_ready", { count: written(counts.undecided) }),
    counts.conflict > 0 && say("plan_conflicts", { count: written(counts.conflict) }),
  ].filter(Boolean);
  const bar = el("progress", { max: plan.needed, value: plan.decided, "aria-label": say("plan_decided") });
  by("plan-told").replaceChildren(
    bar,
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, say(name)), el("dd", {}, value)])),
    ...told.map((text) => el("p", {}, text)));
  by("accept-lot").disabled = !plan.acceptable || Boolean(lot) || !counts.undecided;
  by("undo-lot").hidden = lot?.author !== author;
}
