// A node with its GPUs. One that is unreachable keeps its place, with what it last showed.
import {html} from "./html.js";
import {now} from "./live.js";
import {address} from "./router.js";
import {Act, Card, Figure, Meter, Swatch} from "./parts.js";
import {carryOut} from "./dialog.js";
import {ago, clock, gib, hue, known, number} from "./words.js";

const HOT = 84; // °C from which a GPU is marked

export function NodeCard({node, jobs, trails}) {
  const command = "ugro nodes";
  const tools = html`<${State} node=${node} /><${Drain} node=${node} />`;
  return html`<${Card} title=${node.name} tools=${tools} command=${command} kind=${node.reachable ? "node" : "node away"} id=${`node-${node.name}`}>
    <div class="line dim small">
      <span>${node.address}</span>
      <${Figure} command=${command}>load ${number(node.load_1m, 1)} of ${number(node.cpu_count)}<//>
      <${Figure} command=${command}>memory ${gib(known(node.memory_total_mib) && known(node.memory_available_mib) ? node.memory_total_mib - node.memory_available_mib : null)} of ${gib(node.memory_total_mib)} GiB<//>
      <${Figure} command=${command}>disk ${gib(node.disk_free_mib, 0)} GiB free<//>
    </div>
    ${node.drained ? html`<p class="note small">Drained ${clock(node.drained.since)}: ${node.drained.reason}</p>` : null}
    ${node.gpus.map((gpu) => html`<${Gpu} key=${gpu.uuid || gpu.index} node=${node} gpu=${gpu} jobs=${jobs} trail=${trails.get(gpu.uuid)} />`)}
    ${node.gpus.length ? null : html`<p class="empty">${node.gpu_problem ?? (node.reachable ? "no GPU: jobs run on its processors" : "its GPUs are not known")}</p>`}
  <//>`;
}

function State({node}) {
  if (!node.reachable) return html`<span class="badge failed" title=${`unreachable: ${node.error?.message}`}>${node.last_seen ? `last seen ${ago(node.last_seen, now.value)}` : "never seen"}</span>`;
  if (node.drained) return html`<span class="badge held">drained</span>`;
  return node.departed ? html`<span class="badge unknown">left the inventory</span>` : html`<span class="dot good" role="img" aria-label="reachable" title="reachable"></span>`;
}

function Drain({node}) {
  if (node.departed) return null;
  const path = `/nodes/${encodeURIComponent(node.name)}`;
  if (node.drained) {
    const command = `ugro undrain ${node.name}`;
    return html`<${Act} label="Undrain" command=${command} onClick=${() => carryOut({path: `${path}/undrain`, title: `Undrain ${node.name}?`, verb: "Undrain", command, facts: [["effect", "it gets new jobs again"]], done: `${node.name}: undrained`})} />`;
  }
  const command = `ugro drain ${node.name} --reason …`;
  return html`<${Act} label="Drain…" kind="plain dim small" command=${command} onClick=${() => carryOut({
    path: `${path}/drain`, title: `Drain ${node.name}?`, verb: "Drain", command, done: `${node.name}: drained`,
    facts: [["effect", "no new jobs start on it; those that run continue"]], fields: [{name: "reason", label: "Reason (others will see it)", required: true}],
  })} />`;
}

function Gpu({node, gpu, jobs, trail}) {
  const where = `${node.name}:${gpu.index ?? "?"}`, command = "ugro nodes";
  const temperature = gpu.temperature_c >= HOT ? "bad" : "";
  const free = node.reachable ? "free" : "";
  return html`<div class="gpu" data-testid=${`gpu-${where}`}>
    <div class="line apart">
      <span class="line tight clip"><b class="nowrap">${where}</b> <span class="clip" title=${`${gpu.name}, ${gpu.uuid}`}>${gpu.name.replace(/^NVIDIA (GeForce )?/, "")}</span><${Spark} values=${trail} /></span>
      ${gpu.problem ? html`<span class="bad">${gpu.problem}</span>` : null}
      ${(gpu.jobs ?? [gpu.job].filter(Boolean)).map((id) => html`<a class="chip" href=${address(["jobs", id])}><${Swatch} colour=${hue(id)} /><span class="clip">${id} ${!jobs[id] || gpu.jobs || jobs[id].name === id ? "" : jobs[id].name}</span></a>`)}
      ${gpu.job ? null : html`<span class="dim">${free}</span>`}
    </div>
    <div class="gauges">
      <span class="gauge"><span class="dim">GPU</span><${Figure} command=${command}>${number(gpu.utilization_percent)} %<//><${Meter} value=${gpu.utilization_percent} label=${`utilisation of ${where}`} tone=${gpu.job && gpu.utilization_percent === 0 ? "warn" : ""} /></span>
      <span class="gauge"><span class="dim">mem</span><${Figure} command=${command}>${gib(gpu.memory_used_mib)} / ${gib(gpu.memory_total_mib)} GiB<//><${Meter} value=${gpu.memory_used_mib} most=${gpu.memory_total_mib} label=${`memory of ${where}`} tone=${gpu.memory_used_mib > 0.97 * gpu.memory_total_mib ? "warn" : ""} /></span>
      <span class="gauge"><span class="dim"></span><${Figure} command=${command} tone=${temperature}>${number(gpu.temperature_c)} °C<//><${Meter} value=${gpu.temperature_c} label=${`temperature of ${where}`} tone=${temperature} /></span>
      <span class="gauge"><span class="dim"></span><${Figure} command=${command}>${number(gpu.power_w)} W<//><${Meter} value=${gpu.power_w} most=${Math.max(450, gpu.power_w ?? 0)} label=${`power of ${where}`} /></span>
    </div>
  </div>`;
}

// The last minutes of utilisation; a gap stays a gap.
function Spark({values}) {
  const width = 44, height = 14;
  if (!values || values.filter(known).length < 2) return html`<svg class="spark" width=${width} height=${height} aria-hidden="true"></svg>`;
  const step = width / 59, from = 60 - values.length;
  let path = "", pen = false;
  values.forEach((value, at) => {
    if (!known(value)) { pen = false; return; }
    path += `${pen ? "L" : "M"}${((from + at) * step).toFixed(1)} ${(height - 1 - (value / 100) * (height - 2)).toFixed(1)}`;
    pen = true;
  });
  return html`<svg class="spark" width=${width} height=${height} aria-hidden="true"><path d=${path} /></svg>`;
}
