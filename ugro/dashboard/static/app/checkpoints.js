// The checkpoints of a job on all nodes, complete or not.
import {html} from "./html.js";
import {Act, Answer, Badge, Card, Empty, useAnswer} from "./parts.js";
import {carryOut} from "./dialog.js";
import {embedded} from "./server.js";
import {bytes, clock, ended, number, NONE} from "./words.js";

export function Checkpoints({job}) {
  const found = useAnswer(`/jobs/${job.id}/checkpoints`, {every: ended(job) ? 0 : 15_000, mark: job.state});
  return html`<${Card} title="Checkpoints" command=${`ugro checkpoints ${job.id}`} flush id="checkpoints"><div class="pad">
    <${Answer} of=${found} waiting="asking the nodes …">${(body) => html`<${List} job=${job} list=${Array.isArray(body) ? body : body.checkpoints ?? body.answer ?? []} silent=${body.silent ?? []} />`}<//></div><//>`;
}

function List({job, list, silent}) {
  const rows = [...list].reverse();
  return html`${silent.map((error) => html`<p class="note">${error.message}</p>`)}
    ${rows.length ? html`<div class="scroll"><table class="list"><thead><tr><th>At</th><th>Name</th><th>Kind</th><th class="right">Size</th><th>Saved</th><th>Where</th><th>State</th><th></th></tr></thead>
      <tbody>${rows.map((one) => html`<tr key=${`${one.name} ${one.step}`}>
        <td class="nowrap"><b>${one.step !== null ? `step ${number(one.step)}` : one.epoch !== null ? `epoch ${one.epoch}` : NONE}</b>${one.other_branch ? html` <span class="dim">other branch</span>` : null}</td>
        <td>${one.name}</td><td>${one.kind}</td><td class="right nowrap">${bytes(one.bytes)}</td><td class="nowrap">${clock(one.saved_at)}</td>
        <td>${[...new Set(one.places.map((place) => place.node))].join(", ")}${one.on_master ? " · master" : ""}</td>
        <td><${Badge} state=${one.whole ? "complete" : "incomplete"} title=${one.problem} />${one.problem ? html`<div class="small dim">${one.problem}</div>` : null}</td>
        <td>${!embedded && one.whole && ended(job) && one.step !== null ? html`<${Act} label="Resume from here…" command=${`ugro resume ${job.id} --from ${one.step}`} onClick=${() => carryOut({
          path: `/jobs/${job.id}/resume`, body: {attempt: job.attempt, step: one.step}, title: `Resume ${job.id} at step ${one.step}?`, verb: "Resume", command: `ugro resume ${job.id} --from ${one.step}`, confirm: false, done: `${job.id}: resumed`})} />` : null}</td>
      </tr>`)}</tbody></table></div>` : html`<${Empty}>it has no checkpoint<//>`}`;
}
