// What waits for a person: proposals, hanging jobs, unreachable nodes, damaged records.
import {html} from "./html.js";
import {now} from "./live.js";
import {address} from "./router.js";
import {Card, Command} from "./parts.js";
import {Proposal} from "./proposal.js";
import {ago} from "./words.js";

export function Attention({view}) {
  const proposals = Object.values(view.proposals);
  const alerts = Object.values(view.jobs).filter((job) => job.alert);
  const nodes = Object.values(view.nodes).filter((node) => !node.reachable || node.gpu_problem || node.gpus.some((gpu) => gpu.problem));
  const problems = Object.entries(view.problems);
  const count = proposals.length + alerts.length + nodes.length + problems.length + (view.attended ? 0 : 1);
  if (!count) return null;
  return html`<${Card} title=${`Needs attention (${count})`} kind=${`attention ${nodes.length || problems.length ? "bad" : ""}`} command="ugro status" id="attention">
    <ul class="notices">
      ${view.attended ? null : html`<li><b class="warn">No scheduler runs.</b> Jobs start and recover only while one does. <${Command} text="ugro serve" /></li>`}
      ${proposals.map((one) => html`<li key=${`p${one.job}`}><${Proposal} proposal=${one} /></li>`)}
      ${alerts.map((job) => html`<li key=${`a${job.id}`}><span class="line"><b class="warn">Hang</b><a href=${address(["jobs", job.id])}>${job.id} ${job.name}</a></span><span>${job.alert}</span><${Command} text=${`ugro stacks ${job.id}`} /></li>`)}
      ${nodes.map((node) => html`<${NodeNotice} key=${`n${node.name}`} node=${node} />`)}
      ${problems.map(([key, one]) => html`<li key=${`r${key}`}><b class="bad">Records</b> ${one.message} <span class="dim">${one.hint}</span></li>`)}
    </ul><//>`;
}

function NodeNotice({node}) {
  if (!node.reachable) {
    return html`<li><b class="bad">${node.name} is unreachable</b><span>${node.error?.message ?? ""}
      <span class="dim"> ${node.last_seen ? `last seen ${ago(node.last_seen, now.value)}. ` : ""}${node.error?.hint ?? ""}</span></span></li>`;
  }
  const gpus = node.gpus.filter((gpu) => gpu.problem);
  return html`<li><b class="warn">GPU of ${node.name}</b><span>${node.gpu_problem ?? gpus.map((gpu) => `${node.name}:${gpu.index ?? "?"} ${gpu.name}: ${gpu.problem}`).join("; ")}</span></li>`;
}
