// The log of a rank: any number of lines, of which only those in sight are in the page.
import {html, useEffect, useMemo, useRef, useState} from "./html.js";
import {contact} from "./live.js";
import {keep, place} from "./router.js";
import {Card, Empty, Failure} from "./parts.js";
import {LogPages} from "./log_pages.js";
import {Search} from "./log_search.js";
import {Row} from "./log_row.js";
import {BASE, embedded, query} from "./server.js";
import {bytes, ended, number, plural} from "./words.js";

const ROW = 18, TALLEST = 12_000_000, MORE = 40, SELECTABLE = 4000;

export function Log({job}) {
  const {rank: chosen, attempt: past = "", line = "", q = ""} = place.value.options;
  const ranks = job.ranks?.length ? job.ranks.map((one) => one.rank) : [...Array(worldOf(job)).keys()];
  const rank = chosen !== undefined && ranks.includes(Number(chosen)) ? Number(chosen) : job.first_failure?.rank ?? 0;
  const attempt = past || undefined;
  const [stamp, redraw] = useState(0);
  const pages = useMemo(() => new LogPages(job.id, rank, attempt, () => redraw((count) => count + 1)), [job.id, rank, attempt]);
  useEffect(() => { pages.tail(); return () => pages.end(); }, [pages]);
  const live = !ended(job) && !past;
  useEffect(() => {
    if (!live) return undefined;
    const timer = setInterval(() => { if (!document.hidden) pages.tail(); }, 2000);
    return () => clearInterval(timer);
  }, [pages, live]);
  const command = `ugro logs ${job.id} --rank ${rank}${past ? ` --attempt ${past}` : ""}`;
  const wanted = Number(line) || null;
  return html`<${Card} title="Log" command=${command} flush id="log">
    <div class="log-bar line">
      <span class="line tight" role="group" aria-label="Rank">${ranks.slice(0, 64).map((one) => html`<button type="button" key=${one} class=${`rank rank${one % 8}`} aria-pressed=${one === rank} onClick=${() => keep({rank: one, line: ""})} title=${`rank ${one}`}>${one}</button>`)}</span>
      ${job.attempts?.length > 1 ? html`<select aria-label="Attempt" value=${past} onChange=${(event) => keep({attempt: event.target.value, line: ""})}>
        <option value="">attempt ${job.attempt}</option>${job.attempts.filter((one) => one.attempt !== job.attempt).map((one) => html`<option value=${one.attempt}>attempt ${one.attempt}</option>`)}</select>` : null}
      <${Jump} total=${pages.total} />
      ${embedded ? null : html`<a class="small" href=${`${BASE}/jobs/${encodeURIComponent(job.id)}/logs/raw${query({rank, attempt})}`} download data-testid="log-download" title="The complete log of this rank, as it was printed">download</a>`}
      <span class="dim small" role="status" data-testid="log-size">${pages.known ? `${plural(pages.total, "line")}, ${bytes(pages.size)}` : "…"}${pages.behind ? `, ${bytes(pages.behind)} more on the node` : ""}</span>
    </div>
    <${Search} job=${job} rank=${rank} ranks=${ranks} attempt=${attempt} />
    ${pages.error && contact.value.live ? html`<div class="pad"><${Failure} error=${pages.error} /></div>` : null}
    ${pages.unreadable ? html`<div class="pad"><p class="note">The node cannot be read now: ${pages.unreadable.message}. What is shown is the master's copy.</p></div>` : null}
    ${pages.known && !pages.rows ? html`<div class="pad"><${Empty}>${live ? "it has printed nothing so far" : "it printed nothing"}<//></div>` : null}
    <${Viewer} key=${`${rank} ${past}`} pages=${pages} stamp=${stamp} rows=${pages.rows} rank=${rank} wanted=${wanted} words=${q} live=${live} />
  <//>`;
}

function worldOf(job) {
  return Math.max(1, (job.placement?.shares ?? []).reduce((sum, share) => sum + share.nproc, 0));
}

function Jump({total}) {
  const jump = (event) => {
    event.preventDefault();
    const line = Math.max(1, Math.min(total, Math.round(Number(event.target.elements.line.value))));
    if (line) keep({line});
  };
  return html`<form class="line tight" onSubmit=${jump}><input name="line" inputmode="numeric" placeholder="line" size="8" aria-label="Go to line" /><button type="submit">go</button></form>`;
}

// Fixed rows in a frame that scrolls. A page of a browser cannot be taller than some million pixels: then a pixel of the
// scroll bar is more than a pixel of the text, and wheel and keys move by lines.
function Viewer({pages, rows, rank, wanted, words, live}) {
  const box = useRef(null), [size, setSize] = useState({height: 400}), [top, setTop] = useState(null), stick = useRef(wanted === null), written = useRef(-1);
  const sight = Math.max(1, Math.floor(size.height / ROW)), most = Math.max(0, rows - sight);
  const tall = Math.min(TALLEST, rows * ROW + 6), scaled = rows * ROW > TALLEST;
  const at = top === null || stick.current ? most : Math.min(top, most);
  const pixels = (line) => (most ? (line / most) * Math.max(0, tall - size.height) : 0);

  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setSize({height: entry.contentRect.height}));
    watcher.observe(box.current);
    return () => watcher.disconnect();
  }, []);
  const move = (line) => {
    const next = Math.max(0, Math.min(most, line));
    stick.current = live && next >= most - 0.5;
    setTop(next);
  };
  useEffect(() => { if (wanted !== null && rows) move(wanted - 1 - Math.floor(sight / 3)); }, [wanted, rows > 0, pages]);
  useEffect(() => {
    const should = Math.round(pixels(at));
    if (Math.abs(box.current.scrollTop - should) > 1) { written.current = should; box.current.scrollTop = should; }
  }, [at, rows, size.height]);
  const scrolled = () => {
    const now = box.current.scrollTop;
    if (Math.abs(now - written.current) <= 1) { written.current = -1; return; }
    const space = tall - size.height;
    move(space > 0 ? (now / space) * most : 0);
  };
  useEffect(() => {
    const wheel = (event) => {
      if (!scaled || event.ctrlKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
      event.preventDefault();
      move(at + (event.deltaMode ? event.deltaY * 3 : event.deltaY / ROW));
    };
    const frame = box.current;
    frame.addEventListener("wheel", wheel, {passive: false});
    return () => frame.removeEventListener("wheel", wheel);
  });
  const keyed = (event) => {
    const step = {PageDown: sight - 2, PageUp: 2 - sight, ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity}[event.key];
    if (step === undefined || event.altKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    move(step === Infinity ? most : step === -Infinity ? 0 : at + step);
  };

  const held = useSelection(box);
  let first = Math.max(1, Math.floor(at) + 1 - MORE), last = Math.min(rows, Math.ceil(at) + sight + MORE);
  // What is selected stays in the page, so that it can be copied as everywhere.
  if (held && Math.max(last, held[1]) - Math.min(first, held[0]) < SELECTABLE) { first = Math.min(first, held[0]); last = Math.min(rows, Math.max(last, held[1])); }
  useEffect(() => { pages.ensure(first, last); }, [first, last, rows, pages]);
  const shown = [];
  for (let line = first; line <= last; line += 1) shown.push(html`<${Row} key=${line} number=${line <= pages.total ? line : null} line=${pages.line(line)} rank=${rank} marked=${line === wanted} words=${words} />`);
  const digits = String(rows).length;
  return html`<div ref=${box} class="log" tabindex="0" role="log" aria-live="off" aria-label=${`log of rank ${rank}, ${number(rows)} lines`} onScroll=${scrolled} onKeyDown=${keyed} data-testid="log-frame" data-top=${Math.floor(at) + 1}>
    <div class="tall" style=${{height: `${tall}px`}}><div class="rows" style=${{transform: `translateY(${scaled ? pixels(at) + (first - 1 - at) * ROW : (first - 1) * ROW}px)`, "--digits": `${digits + 1}ch`}}>${shown}</div></div>
  </div>
  ${live ? html`<div class="line log-foot small"><label class="line tight"><input type="checkbox" checked=${stick.current} onChange=${(event) => { stick.current = event.target.checked; setTop(most); }} /> follow the end</label></div>` : null}`;
}

// The first and last row that a selection touches.
function useSelection(box) {
  const [held, setHeld] = useState(null);
  useEffect(() => {
    const look = () => {
      const selection = document.getSelection(), rowOf = (node) => (node?.nodeType === 1 ? node : node?.parentElement)?.closest?.("[data-row]");
      const ends = selection && !selection.isCollapsed ? [rowOf(selection.anchorNode), rowOf(selection.focusNode)] : [];
      const lines = ends.filter((row) => row && box.current?.contains(row)).map((row) => Number(row.dataset.row));
      setHeld(lines.length ? [Math.min(...lines), Math.max(...lines)] : null);
    };
    document.addEventListener("selectionchange", look);
    return () => document.removeEventListener("selectionchange", look);
  }, []);
  return held;
}
