// The page of a sweep: its jobs compared by a series, and their curves laid over each other.
import {html, useMemo, useState} from "./html.js";
import {cluster} from "./live.js";
import {keep, place} from "./router.js";
import {query} from "./server.js";
import {Answer, Card, Command, Empty, Failure, Foreign, useAnswer} from "./parts.js";
import {Chart} from "./chart.js";
import {line, literal, metricsPath, useAnswers} from "./curves.js";
import {Bar, Counts, SweepTable, pace, sorted, statesOf, stillRuns} from "./sweeps.js";
import {ended, figure, hue, number, plural, shell, valuesOf, visible} from "./words.js";

const PIXELS = 900, LINES = 16, COLOURS = 8, ROWS = 200; // jobs that are drawn, and rows that are shown at first

export function SweepPage({id}) {
  const {metric = "", highest = ""} = place.value.options, live = cluster.value.sweeps?.[id];
  const found = useAnswer(`/sweeps/${encodeURIComponent(id)}${query({metric, highest})}`, {every: pace(live)});
  if (!found.body) {
    return html`<div class="title"><h1>${id}</h1></div>${found.error ? html`<${Failure} error=${found.error} />` : html`<${Empty}>…<//>`}
      ${found.error && metric ? html`<p><button type="button" onClick=${() => keep({metric: "", highest: ""})}>Compare by another series</button></p>` : null}`;
  }
  return html`<${Sweep} found=${found.body} states=${live?.states ?? statesOf(found.body)} />`;
}

function Sweep({found, states}) {
  const best = found.jobs.find((job) => job.id === found.best), limit = found.max_parallel ? `, ${found.max_parallel} at a time` : "";
  return html`<div class="title head"><div class="line apart"><h1 class="line"><span>${found.id}</span><span class="name">${found.name}</span></h1><${Command} text=${commandOf(found)} /></div>
      <div class="line"><span class="dim">${found.jobs.length < found.of ? `${number(found.jobs.length)} of ` : ""}${plural(found.of, "job")}${limit}</span><span role="status" data-testid="sweep-counts"><${Counts} states=${states} /></span></div>
      <${Bar} sweep=${{of: found.of, states}} />
      ${best ? html`<p class="told" data-testid="sweep-best">${found.highest ? "highest" : "lowest"} <${Foreign} text=${found.metric} />: <b>${figure(best.metric)}</b> of <a href=${`#/jobs/${best.id}`}>${best.id}</a> <span class="mono"><${Foreign} text=${valuesOf(best)} /></span></p>` : null}</div>
    <div class="stack">
      <${Curves} found=${found} />
      <${Jobs} found=${found} />
    </div>`;
}

// The command that prints the same; a name that no person should paste into a terminal is left out.
function commandOf(found) {
  const {metric} = place.value.options, named = metric && visible(metric) === metric ? ` --metric ${shell([metric])}` : "";
  return `ugro status ${found.id}${named}${place.value.options.highest ? (found.highest ? " --highest" : " --lowest") : ""}`;
}

function Compared({found}) {
  if (!found.metrics.length) return null;
  return html`<label class="line tight">by <select class="narrow" aria-label="Series by which the jobs are compared" value=${found.metric} onChange=${(event) => keep({metric: event.target.value, highest: ""})}>
      ${found.metrics.map((name) => html`<option key=${name} value=${name}>${visible(name)}</option>`)}</select></label>
    <button type="button" onClick=${() => keep({highest: String(!found.highest)})} title="Which value is the best">${found.highest ? "highest" : "lowest"} is best</button>`;
}

// --- curves ----------------------------------------------------------------------------------------------------------

// The jobs whose curves are drawn: the best and those that run, then those of the best values; in the order of their
// numbers. A job that failed may have a better value than the best.
export function drawn(found, most = LINES) {
  const having = found.jobs.filter((job) => job.last !== null), rank = (job) => (job.id === found.best ? 2 : Number(!ended(job)));
  const chosen = sorted(having, "best", found.highest).sort((a, b) => rank(b) - rank(a)).slice(0, most);
  return chosen.sort((a, b) => a.index - b.index);
}

function Curves({found}) {
  const {log = ""} = place.value.options, [range, setRange] = useState(null);
  const jobs = drawn(found), path = (job) => metricsPath(job.id, {x: "step", pixels: PIXELS, names: literal(found.metric)});
  const over = useAnswers(jobs.filter(ended).map(path), 0), running = useAnswers(jobs.filter((job) => !ended(job)).map(path), 5000);
  const lines = useMemo(() => jobs.flatMap((job) => {
    const known = (over[path(job)] ?? running[path(job)])?.body?.series, series = known?.find((one) => one.name === found.metric) ?? known?.[0];
    if (!series) return [];
    const label = valuesOf(job) || job.id, dash = Math.floor((job.index - 1) / COLOURS) % 2 ? [7, 4] : undefined;
    return [{...line(series, label, "step", hue(job.id).slice(4, -1)), dash, bold: job.id === found.best}];
  }), [over, running, found]);
  const having = found.jobs.filter((job) => job.last !== null).length;
  const tools = html`<button type="button" class="small" aria-pressed=${Boolean(log)} onClick=${() => keep({log: log ? "" : "1"})}>log axis</button>
    ${range ? html`<button type="button" class="small" onClick=${() => setRange(null)}>reset zoom</button>` : null}`;
  return html`<${Card} title="Curves" tools=${html`<${Compared} found=${found} />`} id="sweep-curves">
    ${lines.length ? html`<${Chart} title=${found.metric} lines=${lines} log=${Boolean(log)} range=${range} onZoom=${setRange} height=${230} tools=${tools} />`
    : html`<${Empty}>${having ? "…" : "no series so far: they appear with the first step that a script prints or records"}<//>`}
    ${having > jobs.length ? html`<p class="small dim">${number(jobs.length)} of ${plural(having, "job")} are drawn: those that run, and the best</p>` : null}<//>`;
}

// --- jobs ------------------------------------------------------------------------------------------------------------

function Jobs({found}) {
  const {sort = "number", down = ""} = place.value.options, [most, setMost] = useState(ROWS);
  const jobs = sorted(found.jobs, sort, Boolean(down));
  return html`<${Card} title=${`Jobs (${number(jobs.length)})`} command=${stillRuns(statesOf(found)) ? `ugro cancel ${found.id}` : undefined} id="sweep-jobs">
    <${SweepTable} found=${found} jobs=${jobs.slice(0, most)} sortable=${true} />
    ${jobs.length > most ? html`<p><button type="button" onClick=${() => setMost(jobs.length)}>Show ${number(jobs.length - most)} more</button></p>` : null}<//>`;
}
