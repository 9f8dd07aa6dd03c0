// What was asked for: the command, and everything that the record says.
import {html} from "./html.js";
import {embedded} from "./server.js";
import {address} from "./router.js";
import {Card, Facts, Foreign, copy} from "./parts.js";
import {clock, duration, shell, valuesOf} from "./words.js";

const AGENTS = {torchrun: "torchrun … ", accelerate: "accelerate launch … ", deepspeed: "deepspeed … ", python: "python "};

export function Spec({job}) {
  const line = shell(job.command ?? []);
  return html`<div class="stack">
    <${Card} title="Command" command=${`ugro status ${job.id} --json`} tools=${html`<button type="button" class="plain" onClick=${() => copy(line)}>copy</button>`}>
      <pre class="evidence" data-testid="command">${AGENTS[job.launcher ?? "torchrun"] ?? ""}${line}</pre><//>
    <${Card} title="Asked for"><${Facts} rows=${[
      ["launcher", job.launcher ?? "torchrun"],
      ["sweep", job.sweep ? html`<span>${embedded ? job.sweep.sweep : html`<a href=${address(["sweeps", job.sweep.sweep])}>${job.sweep.sweep}</a>`}, ${job.sweep.index} of ${job.sweep.of}: <${Foreign} text=${valuesOf(job.sweep)} /></span>` : null], ["python", job.python], ["setup", job.setup],
      ["priority", String(job.priority ?? 0)], ["time limit", job.time_limit ? duration(job.time_limit) : null], ["warning before it", job.time_warning ? duration(job.time_warning) : null],
      ["memory of each GPU", job.vram ? `${job.vram} MiB` : null], ["GPUs in all", job.gpus ? String(job.gpus) : null], ["share of a GPU", job.share == null ? null : job.share === "vram" ? "its memory" : String(job.share)], ["after", job.after?.join(", ")], ["not before", job.not_before ? clock(job.not_before) : null],
      ["code", job.code?.directory], ["commit", job.code?.git_commit], ["files", job.code ? String(job.code.files) : null], ["digest", job.code?.digest],
    ]} /><//>
    <${Card} title="Where"><${Facts} rows=${(job.placement?.shares ?? []).map((share) => [share.node, `ranks ${share.first_rank} to ${share.first_rank + share.nproc - 1} · ${share.gpus.join(", ") || "no GPU"}${share.part ? ` · ${share.part.memory_mib} MiB of it` : ""}`])} /><//>
    <${Card} title="The whole record" command=${`ugro status ${job.id} --json`}><details><summary>job.json as the API shows it</summary><pre class="evidence">${JSON.stringify(job, null, 2)}</pre></details><//>
  </div>`;
}
