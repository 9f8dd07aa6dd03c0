// Keys: g and a letter goes somewhere, j and k choose, Enter opens, / searches, ? helps.
import {html, signal, useEffect, useRef} from "./html.js";
import {go} from "./router.js";
import {nextTheme} from "./theme.js";

export const helping = signal(false);

const PLACES = {c: ["cluster"], j: ["jobs"], h: ["history"]};
const KEYS = [
  ["g c", "cluster"], ["g j", "jobs"], ["g h", "history"], ["j / k", "next, previous job"], ["Enter", "open the chosen job"],
  ["/", "search or filter"], ["t", "light, dark, as the system"], ["Esc", "close, leave a field"], ["?", "this help"],
  ["PgUp PgDn Home End", "move in a log"],
];
let going = 0;

export function startKeyboard() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest?.("input, textarea, select, dialog");
    if (event.key === "Escape" && field && !field.closest("dialog")) event.target.blur();
    if (field) return;
    if (going && Date.now() - going < 1500 && PLACES[event.key]) { going = 0; go(PLACES[event.key]); event.preventDefault(); return; }
    going = event.key === "g" ? Date.now() : 0;
    const act = {"?": () => { helping.value = true; }, "/": search, j: () => choose(1), k: () => choose(-1), t: nextTheme}[event.key];
    if (act) { act(); event.preventDefault(); }
  });
}

function search() {
  document.querySelector("[data-search]")?.focus();
}

function choose(step) {
  const rows = [...document.querySelectorAll("[data-choice]")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement?.closest("[data-choice]"));
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + step))];
  next.focus();
  next.scrollIntoView({block: "nearest"});
}

export function Help() {
  const box = useRef(null), shown = helping.value;
  useEffect(() => { if (shown) box.current.showModal(); }, [shown]);
  if (!shown) return null;
  const end = () => { helping.value = false; };
  return html`<dialog ref=${box} onClose=${end} aria-labelledby="help-title" data-testid="help"><div class="inner">
    <h1 id="help-title">Keys</h1>
    <dl class="facts">${KEYS.map(([keys, what]) => html`<dt>${keys.split(" ").map((key) => (key === "/" && keys.length > 1 ? " / " : html`<kbd>${key}</kbd> `))}</dt><dd>${what}</dd>`)}</dl>
    <p class="dim">Each number and button names the <code>ugro</code> command that does the same: point at it. A click on <code>$ ugro …</code> copies it.</p>
    <div class="buttons"><button type="button" class="primary" onClick=${() => box.current.close()}>Close</button></div>
  </div></dialog>`;
}
