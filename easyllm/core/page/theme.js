// Light, dark, or as the machine says.
import { by, remember, remembered } from "./dom.js";
import { say } from "./say.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

const theme = () => (remembered("theme") in NEXT ? remembered("theme") : "auto");
let chosen = theme(); // a browser that keeps nothing has it until the page is closed

export function nextTheme() {
  chosen = NEXT[chosen];
  remember("theme", chosen);
  writeTheme();
}

/** Put it on the page, and its name on the button. */
export function writeTheme() {
  document.documentElement.dataset.theme = chosen;
  by("theme").textContent = say(`theme_${chosen}`);
}
