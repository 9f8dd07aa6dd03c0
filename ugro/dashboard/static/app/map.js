// The map: nodes, their GPUs coloured by job, and the links between them with their measured speed.
import {html, useEffect, useRef, useState} from "./html.js";
import {go} from "./router.js";
import {Empty, Swatch} from "./parts.js";
import {clock, hue, known, number, plural} from "./words.js";

const BOX = 148, HEAD = 24, GPU = 16, GAP = 4, PER_ROW = 8;

export function Map({view}) {
  const frame = useRef(null), [width, setWidth] = useState(0);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    watcher.observe(frame.current);
    return () => watcher.disconnect();
  }, []);
  const nodes = Object.values(view.nodes), pairs = linked(view.links);
  const {spots, height} = layout(nodes, width);
  const shown = [...new Set(nodes.flatMap((node) => node.gpus.flatMap((gpu) => gpu.jobs ?? [gpu.job])).filter(Boolean))].sort();
  return html`<div ref=${frame} class="map">
    ${width ? html`<svg width=${width} height=${height} role="group" aria-label=${`Map of ${plural(nodes.length, "node")}`}>
      ${pairs.map((pair) => html`<${Link} key=${pair.key} pair=${pair} spots=${spots} />`)}
      ${nodes.map((node) => html`<${Box} key=${node.name} node=${node} spot=${spots[node.name]} jobs=${view.jobs} />`)}
      ${pairs.map((pair) => html`<${Speed} key=${`speed ${pair.key}`} pair=${pair} spots=${spots} />`)}
    </svg>` : null}
    <div class="line legend small dim">${shown.map((id) => html`<a class="line tight" href=${`#/jobs/${encodeURIComponent(id)}`}><${Swatch} colour=${hue(id)} />${id} ${view.jobs[id]?.name ?? ""}</a>`)}
      ${shown.length ? null : "no GPU holds a job"}${pairs.length || nodes.length < 2 ? null : html`<span>· links are not measured: ugro check --network</span>`}</div>
    ${nodes.length ? null : html`<${Empty}>no nodes<//>`}
  </div>`;
}

function boxHeight(node) {
  return HEAD + 22 + Math.max(1, Math.ceil(node.gpus.length / PER_ROW)) * (GPU + GAP);
}

// One node in the middle, two side by side, more on an ellipse, in the order of the inventory as one reads; narrow screens
// get a column.
export function layout(nodes, width) {
  const tall = Math.max(70, ...nodes.map(boxHeight)), spots = {}, count = nodes.length;
  const set = (node, x, y) => { spots[node.name] = {x: Math.max(0, Math.min(width - BOX, x - BOX / 2)), y: y - boxHeight(node) / 2, height: boxHeight(node)}; };
  if (width < 420 && count > 2) {
    nodes.forEach((node, at) => set(node, at % 2 ? width - BOX / 2 : BOX / 2, tall / 2 + 4 + at * (tall + 28)));
    return {spots, height: tall + 8 + (count - 1) * (tall + 28)};
  }
  if (count <= 2) {
    nodes.forEach((node, at) => set(node, width * (count === 1 ? 0.5 : 0.25 + 0.5 * at), tall / 2 + 6));
    return {spots, height: tall + 12};
  }
  const height = Math.max(tall * 2 + 44, Math.min(420, 60 + count * 42));
  const across = Math.min(width / 2 - BOX / 2, 430), angles = nodes.map((_, at) => -Math.PI / 2 + (2 * Math.PI * at) / count);
  const places = angles.map((angle) => [Math.cos(angle), Math.sin(angle)]).sort((a, b) => Math.round((a[1] - b[1]) * 1e6) || a[0] - b[0]);
  const lowest = places[count - 1][1], space = height - tall - 8;
  nodes.forEach((node, at) => set(node, width / 2 + across * places[at][0], tall / 2 + 4 + (space * (places[at][1] + 1)) / (lowest + 1)));
  return {spots, height};
}

// Both directions and all backends of two nodes as one line: the slowest says what a gang of them gets.
export function linked(links) {
  const pairs = {};
  for (const link of Object.values(links)) {
    const ends = [link.source, link.target].sort(), key = ends.join("\n");
    (pairs[key] ??= {key, ends, all: []}).all.push(link);
  }
  for (const pair of Object.values(pairs)) {
    const best = {};
    for (const link of pair.all) (best[link.backend] ??= []).push(link);
    const backends = Object.values(best).map((group) => group.reduce((slow, one) => (one.gbit_per_s < slow.gbit_per_s ? one : slow)));
    pair.shown = backends.reduce((fast, one) => (one.gbit_per_s > fast.gbit_per_s ? one : fast));
  }
  return Object.values(pairs);
}

function middles(pair, spots) {
  const ends = pair.ends.map((name) => spots[name]);
  return ends[0] && ends[1] ? ends.map((spot) => [spot.x + BOX / 2, spot.y + spot.height / 2]) : null;
}

function Link({pair, spots}) {
  const ends = middles(pair, spots);
  if (!ends) return null;
  const [[x1, y1], [x2, y2]] = ends, thick = Math.max(1, Math.min(7, 1.5 + Math.log2(Math.max(0.5, pair.shown.gbit_per_s))));
  return html`<line class="link" x1=${x1} y1=${y1} x2=${x2} y2=${y2} stroke-width=${thick} />`;
}

function Speed({pair, spots}) {
  const ends = middles(pair, spots);
  if (!ends) return null;
  const speed = pair.shown.gbit_per_s, x = (ends[0][0] + ends[1][0]) / 2, y = (ends[0][1] + ends[1][1]) / 2;
  const all = pair.all.map((one) => `${one.source} → ${one.target} (${one.backend}): ${number(one.gbit_per_s, 2)} Gbit/s, ${number(one.latency_ms, 2)} ms, ${clock(one.measured_at)}`).join("\n");
  return html`<g class="speed"><title>${all}\n$ ugro check --network</title><rect x=${x - 38} y=${y - 10} width="76" height="20" rx="10" />
    <text x=${x} y=${y + 4} text-anchor="middle">${number(speed, speed < 10 ? 1 : 0)} Gbit/s</text></g>`;
}

function Box({node, spot, jobs}) {
  const rows = node.gpus.map((gpu, at) => ({gpu, x: 12 + (at % PER_ROW) * (GPU + GAP), y: HEAD + 6 + Math.floor(at / PER_ROW) * (GPU + GAP)}));
  const state = node.reachable ? (node.drained ? "drained" : summary(node)) : "unreachable";
  const open = () => document.querySelector(`[data-testid="node-${CSS.escape(node.name)}"]`)?.scrollIntoView({behavior: "smooth", block: "center"});
  return html`<g class=${`box ${node.reachable ? "" : "away"}`} transform=${`translate(${spot.x} ${spot.y})`}>
    <rect class="back" width=${BOX} height=${spot.height} rx="9" onClick=${open} />
    <text class="name" x="12" y="18">${short(node.name, 19)}</text>
    ${rows.map(({gpu, x, y}) => html`<${Square} gpu=${gpu} node=${node} x=${x} y=${y} job=${jobs[gpu.job]} />`)}
    <text class="under" x="12" y=${spot.height - 8}>${state}</text></g>`;
}

function Square({gpu, node, x, y, job}) {
  const busy = known(gpu.utilization_percent) ? gpu.utilization_percent / 100 : 0;
  const title = `${node.name}:${gpu.index ?? "?"} ${gpu.name}, ${number(gpu.utilization_percent)} %${gpu.jobs ? `, shared by ${gpu.jobs.join(", ")}` : gpu.job ? `, ${gpu.job} ${job?.name ?? ""}` : ", free"}\n$ ugro nodes`;
  const open = gpu.job ? () => go(["jobs", gpu.job]) : undefined;
  return html`<g class=${`square ${gpu.problem ? "broken" : ""} ${gpu.job ? "held" : ""}`} onClick=${open}><title>${title}</title>
    <rect x=${x} y=${y} width=${GPU} height=${GPU} rx="3" style=${gpu.job ? {fill: hue(gpu.job), fillOpacity: 0.25, stroke: hue(gpu.job)} : {}} />
    ${gpu.job ? html`<rect class="level" x=${x} y=${y + GPU * (1 - busy)} width=${GPU} height=${GPU * busy} rx="3" style=${{fill: hue(gpu.job)}} />` : null}</g>`;
}

function summary(node) {
  if (!node.gpus.length) return "no GPU";
  const busy = node.gpus.filter((gpu) => gpu.job).length;
  const power = node.gpus.reduce((sum, gpu) => sum + (gpu.power_w ?? 0), 0);
  return `${busy} of ${node.gpus.length} in use${power ? ` · ${number(power)} W` : ""}`;
}

function short(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
