// Numbers and times in words. What is not known is a dash, everywhere.
export const NONE = "—";

export function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

export function number(value, digits = 0) {
  return known(value) ? value.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits}) : NONE;
}

// A metric's value: four digits that matter, whatever its size.
export function figure(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  return value.toLocaleString("en", {maximumFractionDigits: size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 3 : 5});
}

export function gib(mib, digits = 1) {
  return known(mib) ? number(mib / 1024, mib >= 102400 ? 0 : digits) : NONE;
}

export function bytes(count) {
  if (!known(count)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) { count /= 1000; at += 1; }
  return `${number(count, at && count < 100 ? 1 : 0)} ${units[at]}`;
}

export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return minutes < 10 && whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

export function moment(iso) {
  const at = iso ? Date.parse(iso) : NaN;
  return Number.isNaN(at) ? null : at;
}

function two(value) {
  return String(value).padStart(2, "0");
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

// 14:02 today, else with the day; the tooltip has all of it.
export function clock(iso, seconds = false, now = Date.now()) {
  const at = typeof iso === "number" ? iso : moment(iso);
  if (!known(at)) return NONE;
  const when = new Date(at), today = new Date(now);
  const time = `${two(when.getHours())}:${two(when.getMinutes())}${seconds ? `:${two(when.getSeconds())}` : ""}`;
  if (when.toDateString() === today.toDateString()) return time;
  const year = when.getFullYear() === today.getFullYear() ? "" : ` ${when.getFullYear()}`;
  return `${MONTHS[when.getMonth()]} ${when.getDate()}${year} ${time}`;
}

export function ago(iso, now) {
  const at = moment(iso);
  return at === null ? NONE : `${duration((now - at) / 1000)} ago`;
}

// Foreign text without the characters that control a terminal or turn the direction of text: each is a mark.
export function visible(text) {
  return String(text).replaceAll(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "\ufffd");
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

// A command line as a person types it.
export function shell(words) {
  return words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`)).join(" ");
}

// How a job is launched again: the command, and the arguments of its script, module or program.
export function launchLine(job) {
  const words = job.command ?? [], launcher = job.launcher ?? "torchrun", plain = launcher === "none";
  const at = !plain && ["-m", "--no-python"].includes(words[0]) ? 2 : 1, rest = words.slice(at);
  const how = plain || launcher === "torchrun" ? "" : `--launcher ${launcher} `;
  return {rest, line: plain ? `ugro launch -- ${shell(words)}` : `ugro launch ${how}${shell(words.slice(0, at))}${rest.length ? ` -- ${shell(rest)}` : ""}`};
}

export const ENDED = ["succeeded", "failed", "cancelled"];

export function ended(job) {
  return ENDED.includes(job.state);
}

// The state that a person reads: one that is being ended says so.
export function phase(job) {
  return job.stopping ? "stopping" : job.state;
}

// What became of a rank: those of a cancelled job did not fail, they were stopped.
export function rankState(job, rank) {
  if (ended(job) && rank.state === "pending") return "not started";
  return job.state === "cancelled" && (rank.state === "failed" || rank.state === "lost") ? "stopped" : rank.state;
}

// How long a job waits, runs, or ran.
export function lasting(job, now) {
  const begun = moment(job.started_at), over = moment(job.ended_at);
  if (begun !== null) return duration(((over ?? now) - begun) / 1000);
  return ended(job) ? NONE : duration((now - moment(job.submitted_at)) / 1000);
}

// How far a run is, in one form: a job's own document and the live view name the same by other words.
export function progressOf(found) {
  if (!found) return null;
  return {...found, steps_per_second: found.steps_per_second ?? found.rate ?? null, ends_at: found.ends_at ?? found.eta ?? null};
}

// The share of its steps that a run has done, 0 to 1; null where it does not say.
export function share(progress) {
  if (!progress) return null;
  if (known(progress.step) && progress.steps > 0) return Math.min(1, progress.step / progress.steps);
  if (known(progress.epoch) && progress.epochs > 0) return Math.min(1, progress.epoch / progress.epochs);
  return null;
}

export function progressWords(progress) {
  if (!progress) return "";
  if (known(progress.step)) return `step ${number(progress.step)}${progress.steps ? ` of ${number(progress.steps)}` : ""}`;
  if (known(progress.epoch)) return `epoch ${number(progress.epoch, progress.epoch % 1 ? 1 : 0)}${progress.epochs ? ` of ${number(progress.epochs)}` : ""}`;
  return "";
}

// job-9 before job-10; names in the order of people.
export function byId(a, b) {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

// What a job of a sweep runs with: lr=1e-3 seed=2.
export function valuesOf(job) {
  return Object.entries(job.values).map(([name, value]) => `${name}=${value}`).join(" ");
}

// A colour for each job that stays the same wherever it is drawn.
export function hue(id) {
  const digits = /(\d+)$/.exec(id);
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return `var(--c${(digits ? Number(digits[1]) : sum) % 8})`;
}
