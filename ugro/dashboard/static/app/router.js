// The address says what is shown: #/jobs/job-007/log?line=12. Every view can be linked to.
import {signal} from "./html.js";
import {embedded, query} from "./server.js";

export const place = signal(read());

function read() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?", 2);
  const parts = path.split("/").filter(Boolean).map((part) => decodeSafely(part));
  return {parts, options: Object.fromEntries(new URLSearchParams(search))};
}

function decodeSafely(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

window.addEventListener("hashchange", () => { place.value = read(); });

export function address(parts, options = {}) {
  return `#/${parts.map(encodeURIComponent).join("/")}${query(options)}`;
}

export function go(parts, options) {
  location.hash = address(parts, options);
}

// Change options of the place without a step in the history: filters, zoom, the line that is shown.
export function keep(options) {
  const {parts, options: before} = place.value;
  const after = {...before, ...options};
  if (embedded) { place.value = {parts, options: after}; return; }
  history.replaceState(null, "", address(parts, after));
  place.value = read();
}
