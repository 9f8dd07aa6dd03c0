// One job: its head with what can be done, and a tab for each side of it.
import {html, useEffect, useMemo} from "./html.js";
import {cluster, now, watch} from "./live.js";
import {embedded} from "./server.js";
import {address, place} from "./router.js";
import {Command, Empty, Failure, Figure, Guarded, JobBadge, Meter, Swatch} from "./parts.js";
import {clock, duration, ended, hue, known, lasting, moment, number, progressOf, progressWords, share} from "./words.js";
import {Actions} from "./actions.js";
import {Overview} from "./overview.js";
import {Curves} from "./curves.js";
import {Log} from "./log.js";
import {Timeline} from "./timeline.js";
import {Checkpoints} from "./checkpoints.js";
import {Files} from "./files.js";
import {Spec} from "./spec.js";

const TABS = [
  ["overview", "Overview", Overview], ["curves", "Curves", Curves], ["log", "Log", Log],
  ["timeline", "Timeline", Timeline], ["checkpoints", "Checkpoints", Checkpoints], ["files", "Files", Files], ["spec", "Command", Spec],
];

export function JobPage({id}) {
  const topic = useMemo(() => watch(`job:${id}`), [id]);
  useEffect(() => topic.end, [topic]);
  const {job, events = {}, progress, known: here} = topic.state.value;
  if (!here || !job) {
    return html`<div class="title"><h1>${id}</h1></div>${topic.error.value ? html`<${Failure} error=${topic.error.value} />` : html`<${Empty}>…<//>`}`;
  }
  const row = cluster.value.jobs?.[job.id];
  return html`<${JobView} job=${job} events=${Object.values(events)} progress=${progressOf(progress ?? job.progress ?? row?.progress)} proposal=${cluster.value.proposals?.[job.id] ?? null} reason=${row?.reason ?? job.reason} />`;
}

// The same for the live page and a report.
export function JobView(shown) {
  const {job} = shown, [, , tab = "overview"] = place.value.parts;
  const [, , Body] = TABS.find(([name]) => name === tab) ?? TABS[0];
  return html`<${Head} ...${shown} />
    ${embedded ? null : html`<nav class="tabs under" aria-label="Sides of the job">${TABS.map(([name, title]) => html`
      <a href=${address(["jobs", job.id, name])} aria-current=${name === tab ? "page" : undefined} data-testid=${`tab-${name}`}>${title}</a>`)}</nav>
    <${Guarded} key=${tab}><${Body} ...${shown} /><//>`}`;
}

export function Head({job, progress, proposal}) {
  return html`<div class="title head">
    <div class="line apart">
      <h1 class="line"><${Swatch} colour=${hue(job.id)} /><span>${job.id}</span>${job.name === job.id ? null : html`<span class="name">${job.name}</span>`}<${JobBadge} job=${job} /></h1>
      <${Command} text=${`ugro status ${job.id}`} />
    </div>
    <${Running} job=${job} progress=${progress} />
    ${embedded ? null : html`<${Actions} job=${job} proposal=${proposal} />`}
  </div>`;
}

function Running({job, progress}) {
  const command = `ugro status ${job.id}`, done = share(progress), ends = moment(progress?.ends_at);
  const over = ended(job);
  return html`<div class="standing">
    ${done !== null && !over ? html`<div class="line wide"><${Meter} value=${done * 100} label="progress" /><${Figure} command=${command}>${number(done * 100)} %<//></div>` : null}
    <div class="line facts-line">
      ${progressWords(progress) ? html`<${Figure} command=${`ugro metrics ${job.id}`}><span data-testid="progress">${progressWords(progress)}</span><//>` : null}
      ${known(progress?.steps_per_second) ? html`<${Figure} command=${`ugro metrics ${job.id}`}>${number(progress.steps_per_second, progress.steps_per_second < 10 ? 2 : 0)} steps/s<//>` : null}
      ${ends !== null && !over ? html`<${Figure} command=${command}><b>${duration((ends - now.value) / 1000)} left</b>, done ${clock(progress.ends_at)}<//>` : null}
      <${Figure} command=${command}>${job.started_at ? (over ? "ran" : "runs") : over ? "never started" : "waits"} ${job.started_at || !over ? lasting(job, now.value) : ""}<//>
      <${Figure} command=${command}>attempt ${job.attempt}<//>
      ${job.nodes?.length ? html`<span>${job.nodes.join(", ")}</span>` : null}
      ${job.sweep && !embedded ? html`<span>${job.sweep.index} of ${job.sweep.of} in <a href=${address(["sweeps", job.sweep.sweep])}>${job.sweep.sweep}</a></span>` : null}
    </div>
  </div>`;
}
