// What happened to a job, in order, in place on a line of time.
import {html} from "./html.js";
import {Answer, Card, Empty, useAnswer} from "./parts.js";
import {clock, duration, moment} from "./words.js";

const BAD = ["failed", "failing", "hang", "silent", "gpu_gone", "gpu_problem", "rebooted", "unmet", "damaged", "recovery"];
const GOOD = ["succeeded", "running", "answers", "resumed", "checkpoint", "joined", "gpu_well", "cleared"];
const ASKS = ["proposal", "unknown", "idle", "cancel", "held", "queued"];

export function tone(kind) {
  return BAD.includes(kind) ? "bad" : GOOD.includes(kind) ? "good" : ASKS.includes(kind) ? "warn" : "";
}

export function Timeline({job, events}) {
  const all = useAnswer(`/jobs/${job.id}/events`, {mark: events.length ? events[events.length - 1].at : ""});
  return html`<${Card} title="Timeline" command=${`ugro events ${job.id}`} id="timeline">
    <${Answer} of=${all.body || all.error ? (all.body ? all : {...all, body: events}) : {body: events}}>${(body) => html`<${Strip} events=${listed(body)} /><${Events} events=${listed(body)} />`}<//><//>`;
}

// A kind of event in words; its name is an interface.
function said(kind) {
  return kind === "silent" ? "unreachable" : kind.replaceAll("_", " ");
}

export function listed(body) {
  return Array.isArray(body) ? body : body.answer ?? body.events ?? [];
}

// The same events on one line of time, so that a long wait looks long.
function Strip({events}) {
  if (events.length < 2) return null;
  const from = moment(events[0].at), until = Math.max(moment(events[events.length - 1].at), from + 1);
  return html`<div class="strip" aria-hidden="true">${events.map((event, at) => html`<span key=${at} class=${`mark ${tone(event.kind)}`} title=${`${clock(event.at, true)} ${said(event.kind)}`}
    style=${{left: `${((moment(event.at) - from) / (until - from)) * 100}%`}}></span>`)}</div>
    <div class="line apart small dim"><span>${clock(events[0].at)}</span><span>${duration((until - from) / 1000)}</span><span>${clock(events[events.length - 1].at)}</span></div>`;
}

export function Events({events}) {
  if (!events.length) return html`<${Empty}>nothing happened so far<//>`;
  return html`<ol class="events">${events.map((event, at) => html`<li key=${`${event.at} ${at}`}>
    <time datetime=${event.at} title=${event.at}>${clock(event.at, true)}</time><span class=${`dot ${tone(event.kind)}`}></span>
    <span><b>${said(event.kind)}</b>${event.node ? html` <span class="dim">${event.node}</span>` : null} ${event.message}</span></li>`)}</ol>`;
}
