// What stands in the row's place when the list is through.
import { el } from "./dom.js";
import { queue } from "./queue.js";
import { say, written } from "./say.js";

/** What is left to do: `show(state)` makes the list of it, `openPlan()` leads to the lot. */
export function atEnd(counts, plan, show, openPlan) {
  const { undecided, conflict } = counts;
  const told = undecided + conflict ? say("end_left", { undecided: written(undecided), conflict: written(conflict) }) : say("end_all");
  const lot = plan && undecided;
  const button = (name, onclick) => el("button", { type: "button", onclick }, say(name));
  return [el("div", { class: "end" },
    el("h2", {}, say(queue.numbers.length ? "end" : "end_empty")),
    lot && plan.acceptable ? el("p", {}, say("plan_ready", { count: written(undecided) })) : null,
    lot ? button("open_plan", openPlan) : null,
    el("p", {}, told),
    undecided ? button("show_undecided", () => show("undecided")) : null,
    conflict ? button("show_conflicts", () => show("conflict")) : null)];
}
