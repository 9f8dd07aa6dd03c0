// What the board and the page of a sweep share: its counts, and the table of its jobs with their values.
import {html} from "./html.js";
import {cluster} from "./live.js";
import {address, keep, place} from "./router.js";
import {Answer, Command, Foreign, JobBadge, Swatch, useAnswer} from "./parts.js";
import {ENDED, NONE, figure, hue, number, phase, plural, visible} from "./words.js";

const ORDER = ["running", "starting", "unknown", "queued", "held", "succeeded", "failed", "cancelled"];
const SOON = 5000, LATER = 30_000, FEW = 100; // ms between two looks at the series, of as many jobs at most and of more
const SHORT = 24; // characters of a value that stay on one line
const UNFOLDED = 50; // jobs of a sweep that the board shows

export function stillRuns(states) {
  return Object.entries(states ?? {}).some(([state, count]) => count > 0 && !ENDED.includes(state));
}

// How often a sweep is compared again while it may change; states come by themselves.
export function pace(sweep) {
  return !sweep || !stillRuns(sweep.states) ? 0 : sweep.of > FEW ? LATER : SOON;
}

export function statesOf(found) {
  const states = {};
  for (const job of found.jobs) states[job.state] = (states[job.state] ?? 0) + 1;
  return states;
}

export function Counts({states}) {
  return html`<span class="line tight">${ORDER.filter((state) => states[state]).map((state) => html`<span key=${state} class=${`badge ${state}`}>${number(states[state])} ${state}</span>`)}</span>`;
}

// The same as one bar, from done to waiting.
export function Bar({sweep}) {
  const done = ENDED.reduce((sum, state) => sum + (sweep.states[state] ?? 0), 0);
  const parts = [["succeeded", "good"], ["failed", "bad"], ["cancelled", "off"], ["running", ""], ["starting", ""], ["unknown", "warn"]];
  return html`<span class="meter parts" role="img" aria-label=${`${number(done)} of ${plural(sweep.of, "job")} ended`}>
    ${parts.map(([state, tone]) => html`<span key=${state} class=${tone} style=${{width: `${((sweep.states[state] ?? 0) / Math.max(1, sweep.of)) * 100}%`}}></span>`)}</span>`;
}

// --- the table -------------------------------------------------------------------------------------------------------

// A job as the live view has it now; one that left that view is as it was compared.
function current(job) {
  return {...job, stopping: false, ...cluster.value.jobs?.[job.id], values: job.values};
}

const READ = {number: (job) => job.index, best: (job) => job.metric, last: (job) => job.last, state: (job) => phase(job)};

// Jobs by a column: numbers as numbers, and what has no value last.
export function sorted(jobs, column, down) {
  const read = READ[column] ?? ((job) => job.values[column.slice("value ".length)]);
  const missing = (value) => value === null || value === undefined;
  return [...jobs].sort((a, b) => {
    const [one, other] = [read(a), read(b)];
    if (missing(one) || missing(other)) return Number(missing(one)) - Number(missing(other)) || a.index - b.index;
    const apart = Number(one) - Number(other), order = Number.isFinite(apart) ? apart : String(one).localeCompare(String(other), "en", {numeric: true});
    return (down ? -order : order) || a.index - b.index;
  });
}

function Heading({name, column, first = "", chosen, right}) {
  const {sort = "number", down = ""} = place.value.options, active = sort === column;
  const order = !chosen || !active ? undefined : down ? "descending" : "ascending";
  const choose = () => keep(active ? {sort: column, down: down ? "" : "1"} : {sort: column, down: first});
  const sign = !active ? "" : down ? " ▾" : " ▴";
  return html`<th class=${right ? "right" : ""} aria-sort=${order} scope="col">${chosen ? html`<button type="button" class="plain sort" onClick=${choose} title=${`Sort by ${visible(name)}`}><${Foreign} text=${name} /><span aria-hidden="true">${sign}</span></button>` : html`<${Foreign} text=${name} />`}</th>`;
}

export function SweepTable({found, jobs, sortable = false}) {
  const names = [...new Set(found.jobs.flatMap((job) => Object.keys(job.values)))], metric = found.metric, first = found.highest ? "1" : "";
  return html`<div class="scroll"><table class="list sweep-table" data-testid=${`jobs-${found.id}`}>
    <caption class="unseen">Jobs of ${found.id}${metric ? `, compared by ${visible(metric)}` : ""}</caption>
    <thead><tr><${Heading} name="Job" column="number" chosen=${sortable} /><${Heading} name="State" column="state" chosen=${sortable} />
      ${metric ? html`<${Heading} name=${`best ${metric}`} column="best" first=${first} chosen=${sortable} right=${true} /><${Heading} name="last" column="last" first=${first} chosen=${sortable} right=${true} />` : null}
      ${names.map((name) => html`<${Heading} key=${name} name=${name} column=${`value ${name}`} chosen=${sortable} />`)}
      <th scope="col">Why</th></tr></thead>
    <tbody>${jobs.map((one) => html`<${Row} key=${one.id} job=${current(one)} names=${names} metric=${metric} best=${one.id === found.best} />`)}</tbody></table></div>`;
}

function Row({job, names, metric, best}) {
  return html`<tr class=${best ? "best" : ""} data-testid=${`row-${job.id}`}>
    <td class="nowrap"><${Swatch} colour=${hue(job.id)} /> <a href=${address(["jobs", job.id])} data-choice title=${`${job.name}, ${job.index} of the sweep\n$ ugro status ${job.id}`}>${job.id}</a></td>
    <td><${JobBadge} job=${job} /></td>
    ${metric ? html`<td class="right nowrap">${best ? html`<span class="badge succeeded">best</span> ` : null}<b>${figure(job.metric)}</b></td><td class="right nowrap">${figure(job.last)}</td>` : null}
    ${names.map((name) => html`<td key=${name} class=${`value mono ${job.values[name]?.length > SHORT ? "long" : ""}`}>${Object.hasOwn(job.values, name) ? html`<${Foreign} text=${job.values[name]} />` : NONE}</td>`)}
    <td class="why small">${job.state === "succeeded" || job.state === "running" ? job.alert ?? "" : job.reason}</td></tr>`;
}

// --- on the board ----------------------------------------------------------------------------------------------------

export function SweepList({sweeps, fits, narrowed}) {
  if (!sweeps.length) return null;
  const open = new Set((place.value.options.open ?? "").split(",").filter(Boolean));
  const turn = (id) => { if (!open.delete(id)) open.add(id); keep({open: [...open].join(",")}); };
  return html`<section class="sweeps" aria-label="Sweeps" data-testid="sweeps"><h2>Sweeps <span class="dim">${sweeps.length}</span></h2>
    ${sweeps.map((sweep) => html`<${SweepRow} key=${sweep.id} sweep=${sweep} open=${open.has(sweep.id)} turn=${() => turn(sweep.id)} fits=${narrowed(sweep) ? fits : null} />`)}</section>`;
}

function SweepRow({sweep, open, turn, fits}) {
  const below = `unfolded-${sweep.id}`, limit = sweep.max_parallel ? `, ${sweep.max_parallel} at a time` : "";
  return html`<div class="card sweep" data-testid=${sweep.id}>
    <div class="line sweep-head"><button type="button" class="plain fold" aria-expanded=${String(open)} aria-controls=${below} aria-label=${`Jobs of ${sweep.id}`} onClick=${turn}><span aria-hidden="true">${open ? "▾" : "▸"}</span></button>
      <a class="line tight clip" href=${address(["sweeps", sweep.id])} data-choice><b class="nowrap">${sweep.id}</b> <span class="clip">${sweep.name}</span></a>
      <span class="dim small nowrap">${plural(sweep.of, "job")}${limit}</span><${Counts} states=${sweep.states} /><${Bar} sweep=${sweep} /><${Command} text=${`ugro status ${sweep.id}`} /></div>
    <div id=${below} hidden=${!open}>${open ? html`<${Unfolded} sweep=${sweep} fits=${fits} />` : null}</div></div>`;
}

function Unfolded({sweep, fits}) {
  const found = useAnswer(`/sweeps/${sweep.id}`, {every: pace(sweep)});
  return html`<div class="pad"><${Answer} of=${found}>${(body) => {
    const jobs = fits ? body.jobs.filter((job) => fits({nodes: [], ...current(job)})) : body.jobs;
    return html`<${SweepTable} found=${body} jobs=${jobs.slice(0, UNFOLDED)} />
      ${jobs.length > UNFOLDED ? html`<p class="small"><a href=${address(["sweeps", sweep.id])}>${number(jobs.length - UNFOLDED)} more on its page</a></p>` : null}
      ${jobs.length < body.jobs.length ? html`<p class="small dim">${number(jobs.length)} of ${plural(body.jobs.length, "job")} fit the filter</p>` : null}`;
  }}<//></div>`;
}
