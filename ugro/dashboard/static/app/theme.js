// Dark or light: as the system says, or as the switch was set.
import {signal, effect} from "./html.js";

const KEY = "ugro-theme", ORDER = ["system", "light", "dark"];

export const theme = signal(stored());
export const painted = signal(0); // grows when the colours change: canvases draw again

function stored() {
  try { return ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system"; } catch { return "system"; }
}

effect(() => {
  const root = document.documentElement;
  if (theme.value === "system") delete root.dataset.theme; else root.dataset.theme = theme.value;
  try { localStorage.setItem(KEY, theme.value); } catch { /* private browsing */ }
  painted.value = painted.peek() + 1;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { painted.value += 1; });

export function nextTheme() {
  theme.value = ORDER[(ORDER.indexOf(theme.value) + 1) % ORDER.length];
}

const probe = document.createElement("span");

// The colour of a variable as a canvas understands it.
export function colour(name) {
  if (!probe.isConnected) { probe.hidden = true; document.body.append(probe); }
  probe.style.color = name.startsWith("--") ? `var(${name})` : name;
  return getComputedStyle(probe).color;
}

// The same, see-through: a canvas takes rgb() with an alpha.
export function faint(name, alpha) {
  const parts = colour(name).match(/[\d.]+/g).slice(0, 3);
  return `rgba(${parts.join(",")},${alpha})`;
}
