// What stands around the conversation: the panels beside it, the room they have, and the texts on everything.
import { by, remember, write } from "./dom.js";
import { fillHelp } from "./keys.js";
import { say } from "./say.js";
import { writeTheme } from "./theme.js";

export function openSettings(wanted) {
  by("settings").hidden = !wanted;
  by("open-settings").setAttribute("aria-expanded", String(wanted));
  remember("easyllm.settings", wanted ? "open" : "");
}

export function showSide(wanted) {
  document.body.classList.toggle("listing", wanted);
  by("open-side").setAttribute("aria-expanded", String(wanted));
}

/** What stands still above and below tells the rest how much room is left. */
export function watchHeights() {
  const measured = new ResizeObserver(() => {
    for (const [name, tag] of [["--head", "header"], ["--foot", "footer"]]) {
      document.documentElement.style.setProperty(name, `${document.querySelector(tag).offsetHeight}px`);
    }
  });
  measured.observe(document.querySelector("header"));
  measured.observe(document.querySelector("footer"));
}

export function writeAll() {
  write();
  by("language").textContent = say("other_language");
  by("language").lang = document.documentElement.lang === "zh" ? "en" : "zh";
  by("search").placeholder = say("search");
  by("prompt").placeholder = say("prompt");
  writeTheme();
  fillHelp();
}
