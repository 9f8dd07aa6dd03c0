// One line of a log: its number (never copied), the colours that the script gave it, the words that are searched.
import {html} from "./html.js";
import {bytes} from "./words.js";

export function Row({number, line, rank, marked, words}) {
  const row = number ?? "";
  return html`<div class=${`row rank${rank % 8} ${marked ? "marked" : ""}`} data-row=${row} data-n=${row}>${line ? content(line, words) : html`<span class="dim">…</span>`}</div>`;
}

function content(line, words) {
  const spans = line.spans?.length ? line.spans.map((span) => html`<span class=${span.class}>${marks(span.text, words)}</span>`) : marks(line.text, words);
  return html`${line.before ? html`<span class="cut">${bytes(line.before)} before …</span>` : null}${spans}${line.after ? html`<span class="cut">… ${bytes(line.after)} more</span>` : null}\n`;
}

// The text with each place of the words marked; a regular expression is not looked for again here.
export function marks(text, words) {
  if (!words) return text;
  const parts = text.split(words);
  if (parts.length === 1) return text;
  return parts.flatMap((part, at) => (at ? [html`<mark>${words}</mark>`, part] : [part]));
}
