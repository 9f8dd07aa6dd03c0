// What is done to points before they are drawn. Pure.
import {known} from "./words.js";

const FEW = 20; // values of which none is an outlier

// Exponential moving average, corrected for its start. A gap begins it again: it is never bridged.
export function smoothed(points, weight) {
  if (!weight) return points;
  let last = 0, count = 0;
  return points.map(([x, y]) => {
    if (!known(y)) { last = 0; count = 0; return [x, y]; }
    last = last * weight + (1 - weight) * y;
    count += 1;
    return [x, last / (1 - weight ** count)];
  });
}

// On a logarithmic axis only what is above zero has a place; the rest is counted.
export function above(points) {
  let hidden = 0;
  const shown = points.map(([x, y]) => {
    if (known(y) && y <= 0) { hidden += 1; return [x, null]; }
    return [x, y];
  });
  return {points: shown, hidden};
}

// From where to where the values of lines reach without their outliers: the lowest and the highest 1 % of each.
export function inner(lines) {
  let low = Infinity, high = -Infinity;
  for (const points of lines) {
    const values = Float64Array.from(points.map(([, y]) => y).filter(known)).sort();
    if (!values.length) continue;
    const skipped = values.length < FEW ? 0 : Math.ceil(values.length / 100);
    low = Math.min(low, values[skipped]);
    high = Math.max(high, values[values.length - 1 - skipped]);
  }
  if (low > high) return null;
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
}

// The lowest and highest x of lines.
export function extent(lines) {
  let low = Infinity, high = -Infinity;
  for (const {points} of lines) {
    if (!points.length) continue;
    low = Math.min(low, points[0][0]);
    high = Math.max(high, points[points.length - 1][0]);
  }
  return low <= high ? [low, high] : null;
}

// Lines with x of their own as the columns that uPlot draws: undefined where a line has no point, null for a gap.
export function aligned(lines) {
  const all = new Set();
  for (const points of lines) for (const [x] of points) all.add(x);
  const xs = Float64Array.from(all).sort(), place = new Map();
  xs.forEach((x, at) => place.set(x, at));
  const columns = lines.map((points) => {
    const column = new Array(xs.length);
    for (const [x, y] of points) column[place.get(x)] = known(y) ? y : null;
    return column;
  });
  return [Array.from(xs), ...columns];
}

// From time to step, by the runs of steps that both axes name: linear inside one.
export function stepOfTime(bySteps, byTimes) {
  const parts = bySteps.map((step, at) => ({step, time: byTimes[at]})).filter((part) => part.time && part.time.end > part.time.start);
  return (time) => {
    const part = parts.find((one) => time >= one.time.start && time <= one.time.end);
    if (!part) return null;
    const share = (time - part.time.start) / (part.time.end - part.time.start);
    return part.step.start + share * (part.step.end - part.step.start);
  };
}

// One line of points by time on another axis. Points outside of it are left out, and a hole between observations is a gap.
export function moved(samples, xOf, hole = Infinity) {
  const points = [];
  let before = null;
  for (const [time, y] of samples) {
    const x = xOf(time);
    if (x === null) continue;
    if (before !== null && time - before > hole) points.push([(points[points.length - 1][0] + x) / 2, null]);
    points.push([x, y]);
    before = time;
  }
  return points.sort((a, b) => a[0] - b[0]);
}

// What the value at x, or the last one, is that no number can show; null: it is a number, or there is none.
export function noNumber({points, bad}, x = points[points.length - 1]?.[0]) {
  const what = bad?.findLast(([at]) => at === x)?.[1];
  return what === "nan" ? "NaN" : what ?? null;
}

export function csv(axis, lines) {
  const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = lines.flatMap((line) => line.points.map(([x, y]) => [cell(line.label), x, known(y) ? y : "nan"].join(",")));
  return [`series,${axis},value`, ...rows].join("\n");
}
