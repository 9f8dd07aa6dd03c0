// The curves of a job: each series a chart, other jobs laid over it, its GPUs below on the same axis.
import {html, useEffect, useMemo, useState} from "./html.js";
import {cluster} from "./live.js";
import {embedded, get, query} from "./server.js";
import {keep, place} from "./router.js";
import {Card, Empty, Failure, Swatch, useAnswer} from "./parts.js";
import {Chart, save, savePicture} from "./chart.js";
import {csv, extent, moved, stepOfTime} from "./series.js";
import {ended, known, moment, plural} from "./words.js";

const PIXELS = 900, HIDDEN = 1000; // ms after which a page looks again whether it is seen
const GPU_CHARTS = [["utilization_percent", "GPU", "%", 100, 1], ["memory_used_mib", "GPU memory", "GiB", undefined, 1 / 1024], ["temperature_c", "temperature", "°C", undefined, 1], ["power_w", "power", "W", undefined, 1]];
const STEPS = [2, 60, 900]; // seconds between two samples of a GPU that are kept
const LANES = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

export function metricsPath(id, options) {
  return `/jobs/${id}/metrics${query(options)}`;
}

// A name as the pattern that fits it alone.
export function literal(name) {
  return String(name).replaceAll(/[*?[]/g, "[$&]");
}

// Answers of several paths, asked again while a job still trains.
export function useAnswers(paths, every) {
  const [found, setFound] = useState({}), key = paths.join("\n");
  useEffect(() => {
    if (!paths.length) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const ask = async () => {
      if (document.hidden) timer = setTimeout(ask, HIDDEN);
      else {
        const answers = await Promise.all(paths.map((path) => get(path, abort.signal).then((body) => ({body}), (error) => ({error}))));
        if (abort.signal.aborted) return;
        setFound((before) => Object.fromEntries(paths.map((path, at) => [path, answers[at].error && before[path]?.body ? before[path] : answers[at]])));
        if (every && !embedded) timer = setTimeout(ask, every);
      }
    };
    ask();
    return () => { abort.abort(); clearTimeout(timer); };
  }, [key, every]);
  return found;
}

export function MainCurve({job}) {
  const found = useAnswer(metricsPath(job.id, {x: "step", pixels: PIXELS, names: "loss"}), {every: ended(job) ? 0 : 3000, mark: job.state});
  const series = found.body?.series?.[0];
  if (!series && ended(job) && !found.error) return null;
  return html`<${Card} title="Training" command=${`ugro metrics ${job.id}`} id="main-curve">
    ${found.error && !found.body ? html`<${Failure} error=${found.error} />` : null}
    ${series ? html`<${Chart} title=${series.name} unit=${series.unit} lines=${[line(series, job.id, "step", "--c0")]} height=${210} />` : html`<${Empty}>${found.body?.hint || "no series so far: they appear with the first step that the script prints or records"}<//>`}<//>`;
}

export function line(series, label, axis, colour) {
  const starts = (series.segments ?? []).slice(1).map((segment) => segment.start);
  return {label, axis, colour: `var(${colour})`, points: series.points, bad: series.bad ?? [], overwritten: series.overwritten ?? [], starts};
}

export function Curves({job}) {
  const {x = "step", smooth = "0", log = "", clip = "", find = "", over = "", from = "", to = ""} = place.value.options;
  const others = over.split(",").filter((id) => id && id !== job.id), ids = [job.id, ...others];
  const range = useMemo(() => (from !== "" && to !== "" ? [Number(from), Number(to)] : null), [from, to]);
  const asked = {x, pixels: PIXELS, start: range?.[0], end: range?.[1]};
  const paths = ids.map((id) => metricsPath(id, asked));
  const every = ended(job) ? 0 : 3000;
  const found = useAnswers(paths, every);
  const answers = ids.map((id, at) => ({id, ...found[paths[at]]}));
  const own = answers[0];
  const names = [...new Set(answers.flatMap((one) => one.body?.series.map((series) => series.name) ?? []))];
  const wanted = names.filter((name) => name.toLowerCase().includes(find.toLowerCase()));
  const zoom = (limits) => keep(limits ? {from: limits[0].toPrecision(10), to: limits[1].toPrecision(10)} : {from: "", to: ""});
  const common = {axis: x, log: Boolean(log), clip: Boolean(clip), weight: Number(smooth), range, onZoom: zoom, group: `job-${job.id}`};
  return html`<div class="stack">
    <${Tools} job=${job} others=${others} count=${names.length} range=${range} zoom=${zoom} />
    ${answers.map((one) => (one.error ? html`<${Failure} error=${one.error} />` : null))}
    ${own.body?.dropped?.length ? html`<p class="note">${plural(own.body.dropped.length, "series", "series")} beyond the most that are kept: ${own.body.dropped.slice(0, 5).join(", ")}</p>` : null}
    <div class="charts" data-testid="charts">${wanted.slice(0, 60).map((name) => html`<${SeriesChart} key=${name} name=${name} answers=${answers} common=${common} />`)}</div>
    ${own.body && !names.length ? html`<${Card}><${Empty}>${own.body.hint || "no series so far"}<//><//>` : null}
    ${wanted.length > 60 ? html`<${Empty}>${wanted.length - 60} more: search by name<//>` : null}
    <${GpuCharts} job=${job} common=${common} answer=${own.body} />
  </div>`;
}

function Tools({job, others, count, range, zoom}) {
  const {x = "step", smooth = "0", log = "", clip = "", find = ""} = place.value.options;
  const known = Object.values(cluster.value.jobs ?? {}).filter((one) => one.id !== job.id && !others.includes(one.id)).reverse();
  const overlay = (ids) => keep({over: ids.join(",")});
  return html`<div class="line tools-bar" role="group" aria-label="How the curves are drawn">
    <label class="line tight">x <select aria-label="x axis" value=${x} onChange=${(event) => keep({x: event.target.value, from: "", to: ""})}><option value="step">step</option><option value="time">time</option><option value="elapsed">since start</option></select></label>
    <label class="line tight">smooth <input type="range" min="0" max="0.99" step="0.01" value=${smooth} onInput=${(event) => keep({smooth: event.target.value === "0" ? "" : event.target.value})} aria-label="Smoothing" /> <span class="mono small">${Number(smooth).toFixed(2)}</span></label>
    <button type="button" aria-pressed=${Boolean(log)} onClick=${() => keep({log: log ? "" : "1"})}>log axis</button>
    <button type="button" aria-pressed=${Boolean(clip)} onClick=${() => keep({clip: clip ? "" : "1"})} title="The axis leaves out the lowest and the highest 1 % of the values">no outliers</button>
    <input type="search" data-search placeholder=${`search ${count} series   /`} aria-label="Search the series" value=${find} onInput=${(event) => keep({find: event.target.value})} size="16" />
    ${embedded ? null : html`<select class="narrow" aria-label="Lay another job over it" value="" onChange=${(event) => { if (event.target.value) overlay([...others, event.target.value]); event.target.value = ""; }}>
      <option value="">compare with …</option>${known.map((one) => html`<option value=${one.id}>${one.id} ${one.name}</option>`)}</select>`}
    ${others.map((id) => html`<button type="button" onClick=${() => overlay(others.filter((one) => one !== id))} title="remove"><${Swatch} colour=${`var(${LANES[(others.indexOf(id) + 1) % LANES.length]})`} /> ${id} ×</button>`)}
    ${range ? html`<button type="button" onClick=${() => zoom(null)}>reset zoom</button>` : html`<span class="dim small hide-narrow">drag to zoom, double click to reset</span>`}
  </div>`;
}

function SeriesChart({name, answers, common}) {
  const present = answers.flatMap((one) => (one.body?.series ?? []).filter((series) => series.name === name).map((series) => ({id: one.id, series})));
  const several = answers.length > 1;
  const lines = useMemo(() => present.map(({id, series}) => line(series, several ? id : series.source.replaceAll("_", " "), common.axis, LANES[answers.findIndex((one) => one.id === id) % LANES.length])), answers.map((one) => one.body));
  const download = async () => {
    const all = await Promise.all(present.map(({id}) => get(metricsPath(id, {x: common.axis, names: literal(name)}))));
    save(new Blob([csv(common.axis, all.flatMap((body) => body.series.map((series) => ({label: `${body.id} ${series.name}`, points: series.points}))))], {type: "text/csv"}), `${present[0].id}-${name}.csv`);
  };
  const tools = html`${embedded ? null : html`<button type="button" class="plain small dim" onClick=${download} title="All points as CSV">csv</button>`}
    <button type="button" class="plain small dim" onClick=${(event) => savePicture(event.target.closest("figure"), name)} title="This chart as a picture">png</button>`;
  return html`<section class="card pad"><${Chart} title=${name} unit=${present[0]?.series.unit} lines=${lines} tools=${tools} ...${common} /></section>`;
}

// The GPUs of the job over the same axis: one line for each GPU, under the same cursor.
// Several jobs may share a GPU.
const holds = (sample, job) => (sample.jobs ?? [sample.job]).includes(job.id);

function GpuCharts({job, common, answer}) {
  const begun = job.launched_at ?? job.started_at, nodes = job.nodes ?? [], axis = common.axis;
  const since = begun ? encodeURIComponent(begun) : null, lasts = ((moment(job.ended_at) ?? Date.now()) - moment(begun)) / 1000;
  const step = STEPS.find((one) => lasts / one < PIXELS) ?? STEPS[STEPS.length - 1];
  const found = useAnswers(since && !embedded ? nodes.map((node) => `/nodes/${encodeURIComponent(node)}/history?since=${since}&every=${step}`) : [], ended(job) ? 0 : 15_000);
  const times = useAnswer(axis === "step" && answer?.series.length ? metricsPath(job.id, {x: "time", pixels: 1, names: literal(answer.series[0].name)}) : null, {mark: answer?.series[0]?.count});
  const gpus = Object.values(found).flatMap((one) => (Array.isArray(one.body) ? one.body : one.body?.answer ?? []));
  const mine = gpus.filter((gpu) => gpu.samples.some((sample) => holds(sample, job)));
  const xOf = axisOf(axis, job, answer, times.body);
  const range = common.range ?? extent(answer?.series ?? []);
  const charts = useMemo(() => (xOf ? GPU_CHARTS.map(([field, title, unit, most, factor]) => ({
    title, unit, most,
    lines: mine.map((gpu, at) => ({label: `${gpu.node}:${gpu.index ?? "?"} ${gpu.name}`, axis, colour: `var(${LANES[at % LANES.length]})`, bad: [], starts: [],
      points: moved(gpu.samples.filter((sample) => holds(sample, job)).map((sample) => [moment(sample.at) / 1000, known(sample[field]) ? sample[field] * factor : null]), xOf, step * 2.5 + 50)})),
  })).filter((chart) => chart.lines.some((one) => one.points.filter(([, y]) => known(y)).length > 1)) : []), [found, axis, answer, times.body]);
  if (!charts.length && !(mine.length && xOf)) return null;
  if (!charts.length) return html`<h2>Its GPUs</h2><${Empty}>${ended(job) ? "it was too short for curves of its GPUs" : "too few observations so far"}: ugro history has what was seen of them<//>`;
  return html`<h2>Its GPUs</h2><div class="charts" data-testid="gpu-charts">${charts.map((chart) => html`<section key=${chart.title} class="card pad"><${Chart} ...${common} ...${chart} range=${range} log=${false} weight=${0} clip=${false} height=${130} /></section>`)}</div>`;
}

function axisOf(axis, job, answer, times) {
  if (axis === "time") return (time) => time;
  if (axis === "elapsed") return (time) => time - moment(job.started_at ?? job.launched_at) / 1000;
  const steps = answer?.series[0]?.segments, clocks = times?.series[0]?.segments;
  return steps && clocks ? stepOfTime(steps, clocks) : null;
}
