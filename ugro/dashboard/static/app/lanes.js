// A lane of one GPU over time: the colour is the job, the height how busy it was; idle is empty, unknown is hatched.
import {html, useEffect, useRef, useState} from "./html.js";
import {address} from "./router.js";
import {colour, painted} from "./theme.js";
import {Swatch} from "./parts.js";
import {clock, duration, hue, known, moment, number, NONE} from "./words.js";

const HEIGHT = 34, BUSY = 5; // % from which a GPU is not idle

// Milliseconds for which a sample speaks: those before it, up to the one before. `every`: seconds between two.
function reach(every) {
  return every * 2500 + 50_000;
}

// Columns of a lane: for each, which job, the mean and most use; null where nothing was observed.
export function columns(samples, from, until, width, every = 60) {
  const found = Array.from({length: width}, () => null), span = until - from;
  let before = null;
  for (const sample of samples) {
    const at = moment(sample.at);
    if (at === null || at < from || at > until) continue;
    const place = Math.min(width - 1, Math.floor(((at - from) / span) * width));
    // A sample speaks for the time since the one before, if that was not long ago.
    const first = before !== null && at - before < reach(every) ? Math.floor(((before - from) / span) * width) + 1 : place;
    for (let x = Math.max(0, Math.min(first, place)); x <= place; x += 1) {
      const column = (found[x] ??= {job: sample.job, program: sample.program, sum: 0, count: 0, most: 0});
      column.job = sample.job ?? column.job;
      column.program = sample.program ?? column.program;
      if (!known(sample.utilization_percent)) continue;
      column.sum += sample.utilization_percent;
      column.count += 1;
      column.most = Math.max(column.most, sample.range?.utilization_percent?.[1] ?? sample.utilization_percent);
    }
    before = at;
  }
  return found;
}

// What a lane comes to, in seconds: held by jobs, busy, idle while held, free, and not observed.
export function sums(samples, from, until, every = 60) {
  const sum = {held: 0, busy: 0, wasted: 0, free: 0, unseen: 0};
  let before = from;
  for (const sample of samples) {
    const at = moment(sample.at);
    if (at === null || at < from || at > until) continue;
    const step = (at - before) / 1000;
    before = at;
    if (step * 1000 > reach(every)) { sum.unseen += step; continue; }
    const busy = known(sample.utilization_percent) && sample.utilization_percent >= BUSY;
    if (busy) sum.busy += step;
    if (sample.job) { sum.held += step; if (!busy) sum.wasted += step; } else if (!busy) sum.free += step;
  }
  sum.unseen += (until - before) / 1000;
  return sum;
}

export function Lane({gpu, from, until, every}) {
  const canvas = useRef(null), [width, setWidth] = useState(0), [at, setAt] = useState(null);
  const stamp = painted.value;
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watcher.observe(canvas.current.parentElement);
    return () => watcher.disconnect();
  }, []);
  const found = width ? columns(gpu.samples, from, until, width, every) : [];
  useEffect(() => { if (width) draw(canvas.current, found, width); }, [gpu, width, stamp]);
  const sum = sums(gpu.samples, from, until, every), jobs = [...new Set(gpu.samples.flatMap((one) => one.jobs ?? [one.job]).filter(Boolean))];
  const column = at === null ? null : found[at];
  const said = at === null ? null : `${clock(from + (at / width) * (until - from))}: ${column ? `${column.job ?? column.program ?? "free"}, ${column.count ? number(column.sum / column.count) : NONE} %` : "not observed"}`;
  return html`<div class="lane">
    <div class="line apart small"><span><b>${gpu.node}:${gpu.index ?? "gone"}</b> ${gpu.name}</span>
      <span class="dim" title=${`$ ugro history ${gpu.node}`}>busy ${duration(sum.busy)} · <span class=${sum.wasted > 600 ? "warn" : ""}>idle in a job ${duration(sum.wasted)}</span> · free ${duration(sum.free)}</span></div>
    <div class="canvas"><canvas ref=${canvas} height=${HEIGHT} role="img" aria-label=${`use of ${gpu.node}:${gpu.index} since ${clock(from)}: busy ${duration(sum.busy)}, free ${duration(sum.free)}`}
      onMouseMove=${(event) => setAt(Math.max(0, Math.min(width - 1, Math.floor(event.offsetX))))} onMouseLeave=${() => setAt(null)}></canvas></div>
    <div class="line small dim">${said ?? (jobs.length ? jobs.slice(-8).map((id) => html`<a class="line tight" href=${address(["jobs", id])}><${Swatch} colour=${hue(id)} />${id}</a>`) : "no job had it")}</div>
  </div>`;
}

function draw(canvas, found, width) {
  const ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = HEIGHT * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${HEIGHT}px`;
  const pen = canvas.getContext("2d"), colours = {};
  const paint = (id) => (colours[id] ??= colour(id ? hue(id).slice(4, -1) : "--line-strong"));
  pen.scale(ratio, ratio);
  pen.fillStyle = colour("--raised");
  pen.fillRect(0, 0, width, HEIGHT);
  found.forEach((column, x) => {
    if (!column) {
      pen.globalAlpha = 0.5;
      pen.fillStyle = colour("--line-strong");
      for (let y = x % 6; y < HEIGHT; y += 6) pen.fillRect(x, y, 1, 1);
      return;
    }
    const owner = column.job ?? (column.program ? "" : null), mean = column.count ? column.sum / column.count : 0;
    if (owner === null && mean < BUSY) return;
    pen.fillStyle = paint(owner);
    pen.globalAlpha = 0.22;
    pen.fillRect(x, 0, 1, HEIGHT);
    pen.globalAlpha = 0.45;
    pen.fillRect(x, HEIGHT * (1 - column.most / 100), 1, HEIGHT);
    pen.globalAlpha = 1;
    pen.fillRect(x, HEIGHT * (1 - mean / 100), 1, HEIGHT);
  });
  pen.globalAlpha = 1;
}

export function Scale({from, until}) {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => clock(from + share * (until - from)));
  return html`<div class="line apart small dim">${marks.map((mark, at) => html`<span class=${at % 2 ? "hide-narrow" : ""}>${mark}</span>`)}</div>`;
}
