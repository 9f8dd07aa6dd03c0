// The cluster: what needs attention, the map, each node with its GPUs.
import {html, useEffect, useRef} from "./html.js";
import {cluster} from "./live.js";
import {Card, Empty, Figure, Guarded} from "./parts.js";
import {known, number, plural} from "./words.js";
import {Attention} from "./attention.js";
import {Map as NodesMap} from "./map.js";
import {NodeCard} from "./node.js";

const TRAIL = 60;
const trails = new Map(); // utilisation of each GPU over the last minutes, while the page is open

export function ClusterPage() {
  const view = cluster.value;
  const seen = useRef(null);
  useEffect(() => { if (view.known && view.at !== seen.current) { seen.current = view.at; remember(view); } }, [view]);
  if (!view.known) return html`<div class="title"><h1>Cluster</h1></div><${Empty}>waiting for the first observation<//>`;
  const nodes = Object.values(view.nodes);
  return html`<div class="title line apart"><h1>Cluster</h1><${Guarded}><${Sum} view=${view} /><//></div>
    <div class="stack">
      <${Guarded}><${Attention} view=${view} /><//>
      <${Card} title="Map" command="ugro check --network" id="map"><${NodesMap} view=${view} /><//>
      <div class="nodes">${nodes.map((node) => html`<${Guarded} key=${node.name}><${NodeCard} node=${node} jobs=${view.jobs} trails=${trails} /><//>`)}</div>
      ${nodes.length ? null : html`<${Empty}>The inventory names no node.<//>`}
    </div>`;
}

function remember(view) {
  for (const node of Object.values(view.nodes)) {
    for (const gpu of node.gpus) {
      const trail = trails.get(gpu.uuid) ?? [];
      trail.push(node.reachable ? gpu.utilization_percent : null);
      if (trail.length > TRAIL) trail.shift();
      trails.set(gpu.uuid, trail);
    }
  }
}

function Sum({view}) {
  const gpus = Object.values(view.nodes).flatMap((node) => node.gpus.map((gpu) => ({...gpu, reachable: node.reachable})));
  const jobs = Object.values(view.jobs), count = (state) => jobs.filter((job) => job.state === state).length;
  const power = gpus.filter((gpu) => gpu.reachable && known(gpu.power_w)).reduce((sum, gpu) => sum + gpu.power_w, 0);
  const held = gpus.filter((gpu) => gpu.job).length;
  const idle = gpus.filter((gpu) => gpu.job && gpu.reachable && gpu.utilization_percent === 0).length;
  return html`<span class="sum" data-testid="sum">
    <${Figure} command="ugro nodes"><b>${held}</b> of <b>${gpus.length}</b> GPUs hold a job${idle ? html`, <span class="warn">${number(idle)} of them idle</span>` : ""}<//>
    ${power ? html`<${Figure} command="ugro nodes"><b>${number(power)}</b> W<//>` : null}
    <${Figure} command="ugro status"><b>${count("running")}</b> running<//>
    <${Figure} command="ugro status"><b>${count("queued")}</b> queued<//>
    ${count("unknown") ? html`<${Figure} command="ugro status" tone="warn">${plural(count("unknown"), "unknown job")}<//>` : null}
  </span>`;
}
