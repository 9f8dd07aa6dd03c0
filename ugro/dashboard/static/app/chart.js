// One chart: uPlot with our colours, a legend with values under the cursor, ticks for what is no number.
import {html, useEffect, useLayoutEffect, useRef, useState} from "./html.js";
import uPlot from "../vendor/uplot.js";
import {colour, faint, painted} from "./theme.js";
import {Foreign, Swatch} from "./parts.js";
import {above, aligned, inner, noNumber, smoothed} from "./series.js";
import {clock, duration, figure, known, number, visible} from "./words.js";

const EVERY = 250; // ms between two drawings at least
const NAMED = 2; // lines whose values that are no number are told one by one

// `lines`: {label, colour, points, bad, overwritten, starts, dash, bold}; `range`: [from, to] of x or null; `axis`: step, time, elapsed.
export function Chart({title, unit = "", lines, axis = "step", log = false, weight = 0, clip = false, range = null, onZoom, group, height = 190, most, tools}) {
  const box = useRef(null), plot = useRef(null), [width, setWidth] = useState(0), [seen, setSeen] = useState(false), [at, setAt] = useState(null);
  const stamp = painted.value;
  useLayoutEffect(() => {
    const sizes = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    const sight = new IntersectionObserver(([entry]) => setSeen(entry.isIntersecting), {rootMargin: "200px"});
    sizes.observe(box.current);
    sight.observe(box.current);
    return () => { sizes.disconnect(); sight.disconnect(); plot.current?.destroy(); plot.current = null; };
  }, []);
  const drawn = prepared(lines, {log, weight}), limits = useRef(null);
  limits.current = clip ? inner(drawn.map((line) => line.raw)) : null;
  const shape = JSON.stringify([lines.map((line) => [line.label, line.colour, line.dash, line.bold, Boolean(line.overwritten?.length)]), log, weight > 0, clip, axis, stamp, width, height, most]);
  const last = useRef({shape: "", at: 0});
  useEffect(() => {
    if (!seen || !width) return undefined;
    const paint = () => {
      last.current.at = performance.now();
      const data = aligned(drawn.flatMap((line) => line.parts.map((part) => part.points)));
      if (plot.current && last.current.shape === shape) plot.current.setData(data, false);
      else {
        plot.current?.destroy();
        const options = settings({axis, log, limits: clip ? limits : null, drawn, width, height, group, most, setAt, onZoom});
        plot.current = new uPlot(options, data, box.current);
        last.current.shape = shape;
      }
      plot.current.marks = lines;
      const xs = data[0];
      const [from, to] = range ?? [xs[0] ?? 0, xs[xs.length - 1] ?? 1];
      plot.current.setScale("x", {min: from, max: to > from ? to : from + 1});
    };
    const wait = Math.max(0, EVERY - (performance.now() - last.current.at));
    const timer = last.current.shape === shape ? setTimeout(paint, wait) : (paint(), 0);
    return () => clearTimeout(timer);
  }, [lines, seen, shape, weight, range?.[0], range?.[1]]);
  const hidden = drawn.reduce((sum, line) => sum + line.hidden, 0);
  return html`<figure class="chart" aria-label=${visible(title)}>
    <figcaption class="line apart"><span class="line tight"><b><${Foreign} text=${title} /></b>${unit ? html`<span class="dim">${unit}</span>` : null}
      ${badges(lines)}${hidden ? html`<span class="dim small">${hidden} values ≤ 0 hidden</span>` : null}</span>
      <span class="line tight small">${at !== null && at.x !== null ? html`<span class="dim">${xWords(at.x, axis)}</span>` : null}${tools}</span></figcaption>
    <div ref=${box} class="plot" role="img" aria-label=${spoken(title, lines, unit)}></div>
    <div class="line legend small">${lines.map((line, place) => html`<span class="line tight"><${Swatch} colour=${line.colour} /><span class=${`clip ${line.bold ? "bold" : ""}`}><${Foreign} text=${line.label} /></span>
      <span class="mono">${at && at.x !== null ? noNumber(line, at.x) ?? figure(at.values[place]) : lastWord(line)}</span></span>`)}</div>
  </figure>`;
}

// Where values are no number; of many lines only how many have some.
function badges(lines) {
  const found = lines.filter((line) => line.bad?.length);
  if (found.length <= NAMED) return found.map(bad);
  const names = found.map((line) => visible(line.label)).join("\n");
  return html`<span class="badge failed" title=${`values that are no number:\n${names}`}>no number in ${found.length} of ${lines.length} lines</span>`;
}

function bad(line) {
  const [[x, what]] = line.bad;
  const recovered = line.points.some(([at, value]) => at > x && value !== null), more = line.bad.length - 1;
  return html`<span class="badge failed" title=${`${line.bad.length} values are no number`}>${what === "nan" ? "NaN" : what} ${recovered ? "at" : "since"} ${xWords(x, line.axis)}${recovered && more ? ` and ${more} more` : ""}</span>`;
}

function spoken(title, lines, unit) {
  return `${visible(title)}: ${lines.map((line) => `${visible(line.label)} ${lastWord(line)}${unit ? ` ${unit}` : ""}`).join(", ")}`;
}

function lastWord(line) {
  return noNumber(line) ?? figure(lastOf(line.points));
}

function lastOf(points) {
  for (let at = points.length - 1; at >= 0; at -= 1) if (known(points[at][1])) return points[at][1];
  return null;
}

export function xWords(x, axis) {
  if (axis === "time") return clock(x * 1000, true);
  return axis === "elapsed" ? duration(x) : `step ${number(x, x % 1 ? 1 : 0)}`;
}

// Each line as the parts that are drawn: what was computed again (dim), the raw line (faint where a smooth one is above it).
function prepared(lines, {log, weight}) {
  return lines.map((line) => {
    const raw = log ? above(line.points) : {points: line.points, hidden: 0};
    const parts = [];
    if (line.overwritten?.length) parts.push({points: log ? above(line.overwritten).points : line.overwritten, alpha: 0.3, dash: [4, 4]});
    parts.push({points: raw.points, alpha: weight ? 0.25 : 1, dash: line.dash});
    if (weight) parts.push({points: smoothed(raw.points, weight), alpha: 1, dash: line.dash});
    return {...line, parts, raw: raw.points, hidden: raw.hidden};
  });
}

function settings({axis, log, limits, drawn, width, height, group, most, setAt, onZoom}) {
  const flat = drawn.flatMap((line) => line.parts.map((part) => ({line, part})));
  const main = drawn.map((line) => flat.findLastIndex((one) => one.line === line) + 1);
  const dim = colour("--dim"), grid = {stroke: faint("--dim", 0.16), width: 1};
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const side = {stroke: dim, grid, font, ticks: {show: false}};
  return {
    width, height, pxAlign: 1,
    legend: {show: false},
    padding: [8, 10, 0, 0],
    cursor: {
      drag: {x: true, y: false, setScale: false},
      sync: group ? {key: group, setSeries: false} : undefined,
      points: {size: 6},
      bind: {dblclick: () => () => { onZoom?.(null); return null; }},
    },
    scales: {
      x: {time: axis === "time"},
      y: {distr: log ? 3 : 1, range: most ? [0, most] : limits ? (_, low, high) => limits.current ?? [low, high] : undefined},
    },
    axes: [
      {...side, size: 26, values: axis === "elapsed" ? (_, ticks) => ticks.map((tick) => duration(tick)) : axis === "step" ? (_, ticks) => ticks.map((tick) => (tick % 1 ? "" : short(tick))) : undefined},
      {...side, size: 54, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : figure(tick)))},
    ],
    series: [{}, ...flat.map(({line, part}) => {
      const name = line.colour.slice(4, -1);
      return {
        stroke: part.alpha < 1 ? faint(name, part.alpha) : colour(name), width: line.bold ? 3 : 1.5, dash: part.dash, spanGaps: false,
        points: {show: (plot, at) => plot.data[at].filter(known).length < 40, size: 4, fill: colour(name)},
      };
    })],
    hooks: {
      setCursor: [(plot) => {
        const {idx} = plot.cursor;
        const read = (place) => nearest(plot.data[place], idx);
        setAt(idx === null || idx === undefined ? null : {x: plot.data[0][idx] ?? null, values: main.map(read)});
      }],
      setSelect: [(plot) => {
        const {left, width: wide} = plot.select;
        if (wide < 5) return;
        plot.setSelect({left: 0, width: 0, top: 0, height: 0}, false);
        onZoom?.([plot.posToVal(left, "x"), plot.posToVal(left + wide, "x")]);
      }],
      draw: [drawMarks],
    },
  };
}

// The value at a place, or the nearest before it: lines have x of their own.
function nearest(column, at) {
  for (let place = at; place >= 0 && at - place < 200; place -= 1) {
    if (column[place] !== undefined) return column[place];
  }
  return null;
}

// Red ticks where a value is no number, and where an attempt began.
function drawMarks(plot) {
  const pen = plot.ctx, {left, top, width, height} = plot.bbox;
  const place = (x) => plot.valToPos(x, "x", true), inside = (x) => x >= left && x <= left + width;
  pen.save();
  for (const line of plot.marks ?? []) {
    pen.strokeStyle = faint("--dim", 0.5);
    pen.setLineDash([3, 4]);
    for (const start of line.starts ?? []) {
      const x = place(start);
      if (inside(x)) { pen.beginPath(); pen.moveTo(x, top); pen.lineTo(x, top + height); pen.stroke(); }
    }
    pen.setLineDash([]);
    pen.strokeStyle = colour("--bad");
    pen.lineWidth = 2;
    for (const [bad] of line.bad ?? []) {
      const x = place(bad);
      if (inside(x)) { pen.beginPath(); pen.moveTo(x, top + height - 10); pen.lineTo(x, top + height); pen.stroke(); }
    }
  }
  pen.restore();
}

function short(value) {
  if (value >= 1e6) return `${value / 1e6}M`;
  return value >= 10_000 ? `${value / 1000}k` : String(value);
}

// The picture of a chart as a file.
export function savePicture(figureElement, name) {
  figureElement.querySelector("canvas")?.toBlob((blob) => save(blob, `${name}.png`));
}

export function save(blob, name) {
  const link = document.createElement("a"), address = URL.createObjectURL(blob);
  link.href = address;
  link.download = name.replaceAll(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
