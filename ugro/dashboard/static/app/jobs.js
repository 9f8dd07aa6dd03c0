// The board: jobs from queued to ended.
import {html} from "./html.js";
import {cluster, now} from "./live.js";
import {address, keep, place} from "./router.js";
import {Command, Empty, JobBadge, Meter, Swatch} from "./parts.js";
import {SweepList} from "./sweeps.js";
import {byId, clock, duration, hue, known, lasting, moment, number, plural, progressWords, share} from "./words.js";

const STATES = ["queued", "held", "starting", "running", "unknown", "succeeded", "failed", "cancelled"];
const COLUMNS = [
  {name: "Queued", states: ["queued", "held"], order: byTurn, none: "nothing waits"},
  {name: "Starting", states: ["starting"], order: byStart, none: "nothing starts now"},
  {name: "Running", states: ["running", "unknown"], order: byStart, none: "nothing runs"},
  {name: "Ended", states: ["succeeded", "failed", "cancelled"], order: byEnd, none: "nothing has ended"},
];

function byTurn(a, b) {
  return (a.turn ?? Infinity) - (b.turn ?? Infinity) || byId(a.id, b.id);
}

function byStart(a, b) {
  return (moment(b.started_at ?? b.submitted_at) ?? 0) - (moment(a.started_at ?? a.submitted_at) ?? 0) || byId(a.id, b.id);
}

function byEnd(a, b) {
  return (moment(b.ended_at) ?? 0) - (moment(a.ended_at) ?? 0) || byId(b.id, a.id);
}

export function JobsPage() {
  const view = cluster.value, {text = "", state = "", node = ""} = place.value.options;
  if (!view.known) return html`<div class="title"><h1>Jobs</h1></div><${Empty}>waiting for the first observation<//>`;
  const turns = Object.fromEntries((view.queue ?? []).map((id, at) => [id, at + 1]));
  const all = Object.values(view.jobs).map((job) => ({...job, turn: turns[job.id]})), fits = filter(text, state, node);
  const shown = all.filter(fits), alone = (job) => !view.sweeps?.[job.sweep], inSweeps = shown.filter((job) => !alone(job));
  const named = filter(text, "", ""), ofSweep = (sweep) => !state && !node && named({...sweep, reason: ""});
  const sweeps = Object.values(view.sweeps ?? {}).reverse().filter((sweep) => ofSweep(sweep) || inSweeps.some((job) => job.sweep === sweep.id));
  const nodes = [...new Set([...Object.keys(view.nodes), ...all.flatMap((job) => job.nodes)])];
  return html`<div class="title line apart"><h1>Jobs</h1><${Command} text="ugro status" /></div>
    <form class="line filters" onSubmit=${(event) => event.preventDefault()} role="search">
      <input type="search" data-search placeholder="filter by name or id   /" aria-label="Filter by name, id or reason" value=${text} onInput=${(event) => keep({text: event.target.value})} />
      <select aria-label="State" value=${state} onChange=${(event) => keep({state: event.target.value})}>
        <option value="">every state</option>${STATES.map((one) => html`<option value=${one}>${one}</option>`)}</select>
      <select aria-label="Node" value=${node} onChange=${(event) => keep({node: event.target.value})}>
        <option value="">every node</option>${nodes.map((one) => html`<option value=${one}>${one}</option>`)}</select>
      <span class="dim" role="status">${shown.length === all.length ? plural(all.length, "job") : `${number(shown.length)} of ${plural(all.length, "job")}`}</span>
      ${text || state || node ? html`<button type="button" class="plain" onClick=${() => keep({text: "", state: "", node: ""})}>clear</button>` : null}
    </form>
    <${SweepList} sweeps=${sweeps} fits=${fits} narrowed=${(sweep) => !ofSweep(sweep)} />
    <div class="board">${COLUMNS.filter((column) => !state || column.states.includes(state)).map((column) => html`<${Column} column=${column} jobs=${shown.filter((job) => alone(job) && column.states.includes(job.state)).sort(column.order)} others=${inSweeps.filter((job) => column.states.includes(job.state)).length} />`)}</div>`;
}

function filter(text, state, node) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (job) => (!state || job.state === state) && (!node || job.nodes.includes(node))
    && words.every((word) => `${job.id} ${job.name} ${job.reason} ${job.user ?? ""}`.toLowerCase().includes(word));
}

// `others` of these states are jobs of sweeps, which stand above.
function Column({column, jobs, others}) {
  return html`<section class="column" aria-label=${column.name} data-testid=${`column-${column.name.toLowerCase()}`}>
    <h2>${column.name} <span class="dim">${jobs.length}${others ? `, and ${number(others)} in sweeps` : ""}</span></h2>
    ${jobs.map((job) => html`<${Tile} key=${job.id} job=${job} />`)}
    ${jobs.length || others ? null : html`<${Empty}>${column.none}<//>`}
  </section>`;
}

function Tile({job}) {
  const done = share(job.progress), begun = job.started_at !== null && job.started_at !== undefined;
  return html`<a class=${`tile ${job.state}`} href=${address(["jobs", job.id])} data-choice data-testid=${`tile-${job.id}`}>
    <span class="line apart"><span class="line tight clip"><${Swatch} colour=${hue(job.id)} /><b class="nowrap">${job.id}</b> <span class="clip">${job.name === job.id ? "" : job.name}</span></span><${JobBadge} job=${job} /></span>
    ${done !== null && !job.ended_at ? html`<${Meter} value=${done * 100} label=${`${job.id}: ${number(done * 100)} % done`} />` : null}
    <span class="line apart small dim">
      <span title="$ ugro status ${job.id}">${progressWords(job.progress) || where(job)}</span>
      <span class="nowrap" title=${`submitted ${clock(job.submitted_at)}${begun ? `, started ${clock(job.started_at)}` : ""}${job.ended_at ? `, ended ${clock(job.ended_at)}` : ""}\n$ ugro status ${job.id}`}>${time(job)}</span>
    </span>
    ${progressWords(job.progress) ? html`<span class="small dim clip">${where(job)}</span>` : null}
    ${job.alert ? html`<span class="small warn">${job.alert}</span>` : null}
    ${job.reason && job.state !== "succeeded" && job.state !== "running" ? html`<span class="small reason" title=${job.state === "queued" ? `$ ugro why ${job.id}` : `$ ugro explain ${job.id}`}>${job.reason}</span>` : null}
  </a>`;
}

function where(job) {
  const nodes = job.nodes.length > 3 ? `${job.nodes.slice(0, 3).join(", ")} and ${job.nodes.length - 3} more` : job.nodes.join(", ");
  return [nodes, job.gpus ? plural(job.gpus, "GPU") : "", job.attempt > 1 ? `attempt ${job.attempt}` : "", job.user].filter(Boolean).join(" · ");
}

function time(job) {
  const ends = moment(job.progress?.ends_at);
  if (!job.ended_at && ends !== null) return `${duration((ends - now.value) / 1000)} left`;
  if (job.ended_at) return clock(job.ended_at);
  const turn = known(job.turn) ? `turn ${job.turn} · ` : "";
  return `${turn}${job.started_at ? "" : "waits "}${lasting(job, now.value)}`;
}
