// Each GPU's days as a lane: which job had it, how busy it was, and where it was idle.
import {html} from "./html.js";
import {cluster} from "./live.js";
import {keep, place} from "./router.js";
import {Answer, Card, Empty, useAnswer} from "./parts.js";
import {Lane, Scale} from "./lanes.js";

const SPANS = [["6h", "6 hours"], ["24h", "1 day"], ["3d", "3 days"], ["7d", "7 days"], ["30d", "30 days"]];
const MINUTE = 60, QUARTER = 900; // seconds between two samples: a lane is about a thousand pixels wide

export function every(span) {
  return seconds(span) > 90_000 ? QUARTER : MINUTE;
}

export function HistoryPage() {
  const view = cluster.value, {since = "24h", node = ""} = place.value.options;
  const nodes = Object.keys(view.nodes ?? {}).filter((name) => !node || name === node);
  return html`<div class="title line apart"><h1>History</h1>
      <div class="line">
        <select aria-label="Node" value=${node} onChange=${(event) => keep({node: event.target.value})}><option value="">every node</option>${Object.keys(view.nodes ?? {}).map((name) => html`<option value=${name}>${name}</option>`)}</select>
        <span class="line tight" role="group" aria-label="How far back">${SPANS.map(([span, words]) => html`<button type="button" aria-pressed=${span === since} onClick=${() => keep({since: span})}>${words}</button>`)}</span>
      </div></div>
    <div class="stack">
      ${nodes.map((name) => html`<${NodeHistory} key=${name} name=${name} since=${since} />`)}
      ${nodes.length ? null : html`<${Empty}>no node<//>`}
    </div>`;
}

function NodeHistory({name, since}) {
  const found = useAnswer(`/nodes/${encodeURIComponent(name)}/history?since=${since}&every=${every(since)}`, {every: 60_000});
  return html`<${Card} title=${name} command=${`ugro history ${name} --since ${since}`} id=${`history-${name}`}>
    <${Answer} of=${found}>${(body) => html`<${Lanes} gpus=${Array.isArray(body) ? body : body.answer ?? []} span=${seconds(since)} every=${every(since)} />`}<//><//>`;
}

function Lanes({gpus, span, every: step}) {
  if (!gpus.length) return html`<${Empty}>no scheduling pass has observed a GPU of it since then<//>`;
  const until = Date.now(), from = until - span * 1000;
  return html`<div class="lanes">${gpus.map((gpu) => html`<${Lane} key=${gpu.uuid} gpu=${gpu} from=${from} until=${until} every=${step} />`)}<${Scale} from=${from} until=${until} /></div>`;
}

export function seconds(span) {
  const [, count, unit] = /^(\d+)([hd])$/.exec(span) ?? [null, "24", "h"];
  return Number(count) * (unit === "d" ? 86400 : 3600);
}
