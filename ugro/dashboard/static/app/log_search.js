// The search over whole logs, on the server: a list of hits, each of which leads to its line.
import {html, useEffect, useRef, useState} from "./html.js";
import {keep, place} from "./router.js";
import {Failure} from "./parts.js";
import {search} from "./log_pages.js";
import {marks} from "./log_row.js";
import {number, plural} from "./words.js";

const MOST = 1000;

export function Search({job, rank, ranks, attempt}) {
  const {q = "", regex = "", every = "", line = ""} = place.value.options;
  const [state, setState] = useState(null), running = useRef(null);
  const begin = async (words) => {
    running.current?.abort();
    if (!words) { setState(null); return; }
    const abort = running.current = new AbortController();
    setState({hits: [], done: 0, over: false});
    try {
      await search({id: job.id, ranks: every ? ranks : [rank], attempt, words, regex, most: MOST, abort: abort.signal, found: (found) => { if (!abort.signal.aborted) setState(found); }});
    } catch (error) {
      if (error.name !== "AbortError") setState({hits: [], done: 1, over: true, error});
    }
  };
  useEffect(() => { begin(q); return () => running.current?.abort(); }, [q, regex, every, job.id, every ? "" : rank, attempt]);
  const hits = state?.hits ?? [];
  const show = (hit) => keep({rank: hit.rank, line: hit.number ?? ""});
  const step = (by) => {
    if (!hits.length) return;
    const at = hits.findIndex((hit) => hit.rank === rank && String(hit.number) === line);
    show(hits[(at < 0 ? (by > 0 ? 0 : hits.length - 1) : at + by + hits.length) % hits.length]);
  };
  const submit = (event) => {
    event.preventDefault();
    const words = event.target.elements.words.value;
    if (words === q) step(1); else keep({q: words, line: ""});
  };
  return html`<div class="search">
    <form class="line" onSubmit=${submit} role="search">
      <input type="search" name="words" data-search defaultValue=${q} key=${q} placeholder="search the whole log   /" aria-label="Search the whole log" size="28" data-testid="log-search" />
      <button type="submit">search</button>
      <label class="line tight"><input type="checkbox" checked=${Boolean(regex)} onChange=${(event) => keep({regex: event.target.checked ? "1" : ""})} /> regex</label>
      ${ranks.length > 1 ? html`<label class="line tight"><input type="checkbox" checked=${Boolean(every)} onChange=${(event) => keep({every: event.target.checked ? "1" : ""})} /> every rank</label>` : null}
      ${state && !state.error ? html`<span class="dim small" role="status" data-testid="hits">${hits.length >= MOST ? `first ${number(MOST)} hits` : plural(hits.length, "hit")}${state.over ? "" : `, ${number(state.done * 100)} % searched`}</span>` : null}
      ${hits.length > 1 ? html`<button type="button" onClick=${() => step(-1)} aria-label="Hit before">↑</button><button type="button" onClick=${() => step(1)} aria-label="Next hit">↓</button>` : null}
      ${q ? html`<button type="button" class="plain" onClick=${() => keep({q: "", line: ""})}>clear</button>` : null}
    </form>
    ${state?.error ? html`<${Failure} error=${state.error} />` : null}
    ${hits.length ? html`<ol class="hits" data-testid="hit-list" tabindex="0" aria-label="Hits">${hits.map((hit, at) => html`<li key=${at}><button type="button" class=${`plain ${hit.rank === rank && String(hit.number) === line ? "chosen" : ""}`} onClick=${() => show(hit)}>
      <span class=${`rank rank${hit.rank % 8}`}>${hit.rank}</span><span class="dim mono">${hit.number === null ? "?" : number(hit.number)}</span><span class="mono clip">${marks(hit.text.slice(0, 300), regex ? "" : q)}</span></button></li>`)}</ol>` : null}
  </div>`;
}
