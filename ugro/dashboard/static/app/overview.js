// A job at one glance: what waits for a person, why it waits or failed, its main curve, its ranks, its last events.
import {html} from "./html.js";
import {address} from "./router.js";
import {Badge, Card, Facts, useAnswer} from "./parts.js";
import {clock, ended, number, NONE, rankState} from "./words.js";
import {Explain} from "./explain.js";
import {MainCurve} from "./curves.js";
import {Proposal} from "./proposal.js";
import {Events} from "./timeline.js";

export function Overview({job, events, proposal, reason}) {
  return html`<div class="columns">
    <div class="stack">
      ${proposal ? html`<${Card} title="Waits for you" kind="attention" command="ugro proposals"><${Proposal} proposal=${proposal} where="job" /><//>` : null}
      ${job.alert ? html`<${Card} title="Seems to hang" kind="attention" command=${`ugro stacks ${job.id}`}><p>${job.alert}</p><//>` : null}
      ${job.state === "failed" || job.first_failure ? html`<${Explain} job=${job} />` : null}
      ${job.state === "queued" || job.state === "held" ? html`<${Waits} job=${job} reason=${reason} />` : null}
      <${MainCurve} job=${job} />
      ${job.ranks?.length ? html`<${Ranks} job=${job} />` : null}
    </div>
    <div class="stack">
      <${About} job=${job} />
      <${Card} title="Last events" command=${`ugro events ${job.id}`}><${Events} events=${events.slice(-8)} /><p><a href=${address(["jobs", job.id, "timeline"])}>all of them</a></p><//>
      ${job.attempts?.length > 1 ? html`<${Attempts} job=${job} />` : null}
    </div>
  </div>`;
}

function Waits({job, reason}) {
  const found = useAnswer(`/jobs/${job.id}/why`, {every: 10_000, mark: job.state});
  const reasons = found.body?.reasons ?? found.body?.answer?.reasons;
  return html`<${Card} title=${job.state === "held" ? "Held" : "Why it waits"} command=${`ugro why ${job.id}`} id="why">
    ${reasons?.length ? html`<ul class="plain">${reasons.map((one) => html`<li>${one}</li>`)}</ul>` : html`<p>${reason || job.reason || NONE}</p>`}
    ${found.body?.starts_at ? html`<p class="dim">starts about ${clock(found.body.starts_at)}</p>` : null}<//>`;
}

export function Ranks({job}) {
  return html`<${Card} title=${`Ranks (${job.ranks.length})`} command=${`ugro status ${job.id}`} flush id="ranks"><div class="scroll pad"><table class="list">
    <thead><tr><th>Rank</th><th>Node</th><th>GPU</th><th>Pid</th><th>State</th><th>Exit</th></tr></thead>
    <tbody>${job.ranks.map((rank) => html`<tr key=${rank.rank}>
      <td><a class=${`rank rank${rank.rank % 8}`} href=${address(["jobs", job.id, "log"], {rank: rank.rank})}>${rank.rank}</a></td>
      <td>${rank.node}</td><td class="mono" title=${rank.gpu}>${rank.gpu ? rank.gpu.slice(0, 12) : "cpu"}</td><td>${rank.pid ?? NONE}</td>
      <td><${Badge} state=${rankState(job, rank)} />${rank.oom ? html` <span class="bad" title=${rank.oom}>out of memory</span>` : ""}</td>
      <td>${rank.signal ? `SIG${rank.signal}` : rank.exit_code ?? NONE}</td></tr>`)}</tbody></table></div><//>`;
}

function About({job}) {
  const code = job.code;
  return html`<${Card} title="About" command=${`ugro status ${job.id}`}><${Facts} rows=${[
    ["submitted", clock(job.submitted_at, true)], ["started", job.started_at ? clock(job.started_at, true) : null], ["ended", job.ended_at ? clock(job.ended_at, true) : null],
    ["reason", ended(job) || job.state === "unknown" ? job.reason : null],
    ["unknown since", job.unknown_since ? clock(job.unknown_since) : null],
    ["priority", job.priority ? String(job.priority) : null],
    ["after", job.after?.join(", ")],
    ["code", code ? html`<span>${code.directory}${code.git_commit ? html` <span class="mono dim">${code.git_commit.slice(0, 10)}${code.git_dirty ? " with changes" : ""}</span>` : null}</span>` : null],
    ["meets at", job.placement?.master_addr ? `${job.placement.master_addr}:${job.placement.master_port}` : null],
    ["placed", job.placement?.why],
    ["peak memory", job.peak_mib ? `${number(job.peak_mib / 1024, 1)} GiB of a GPU` : null],
    ["predicted", job.predicted_mib ? `${number(job.predicted_mib / 1024, 1)} GiB of a GPU` : null],
    ["resumed from", job.resume_from ? `step ${job.resume_from.step ?? NONE} (${job.resume_from.name})` : null],
  ]} /><//>`;
}

export function Attempts({job}) {
  return html`<${Card} title="Attempts" command=${`ugro status ${job.id}`} flush><div class="scroll pad"><table class="list">
    <thead><tr><th></th><th>State</th><th>Started</th><th>From</th><th>Why it ended</th></tr></thead>
    <tbody>${job.attempts.map((one) => html`<tr key=${one.attempt}><td>${one.attempt}</td><td><${Badge} state=${one.state} /></td><td class="nowrap">${clock(one.started_at)}</td>
      <td class="nowrap">${one.step ? `step ${number(one.step)}` : one.epoch ? `epoch ${one.epoch}` : "the beginning"}</td><td>${one.reason || NONE}</td></tr>`)}</tbody></table></div><//>`;
}
