// Parts that several pages are made of.
import {html, Component, signal, useEffect, useState} from "./html.js";
import {embedded, get, role} from "./server.js";
import {contact} from "./live.js";
import {known, phase, visible} from "./words.js";

export const said = signal("");
let quiet = 0;

// Say something for a moment at the foot of the page; screen readers hear it.
export function say(text) {
  said.value = text;
  clearTimeout(quiet);
  quiet = setTimeout(() => { said.value = ""; }, 3500);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say(`copied: ${text}`);
  } catch {
    say(text); // no clipboard on a page that came over plain http
  }
}

// The command that prints the same. A click copies it.
export function Command({text}) {
  return html`<button type="button" class="command" title=${`Copy: ${text}`} onClick=${() => copy(text)}>${text}</button>`;
}

// A number, with the command that prints it in its tooltip.
export function Figure({children, command, tone}) {
  return html`<span class=${tone ?? ""} title=${command ? `$ ${command}` : undefined}>${children}</span>`;
}

export function Badge({state, title}) {
  return html`<span class=${`badge ${state}`} title=${title}>${state}</span>`;
}

export function JobBadge({job}) {
  return html`<${Badge} state=${phase(job)} />`;
}

export function Meter({value, most = 100, tone = "", label}) {
  const share = known(value) && most > 0 ? Math.max(0, Math.min(100, (value / most) * 100)) : 0;
  return html`<span class="meter" role="img" aria-label=${label}><span class=${tone} style=${{width: `${share}%`}}></span></span>`;
}

export function Swatch({colour}) {
  return html`<span class="swatch" style=${{background: colour}}></span>`;
}

// A name that others gave: what it does to the direction of text ends with it.
export function Foreign({text}) {
  return html`<bdi>${visible(text)}</bdi>`;
}

export function Failure({error}) {
  return html`<div class="failure" role="alert"><b>${error.message}</b>${error.hint ? html`<div class="dim">${error.hint}</div>` : null}</div>`;
}

export function Empty({children}) {
  return html`<p class="empty">${children}</p>`;
}

export function Facts({rows}) {
  const told = rows.filter((row) => row && row[1] !== null && row[1] !== undefined && row[1] !== "");
  return html`<dl class="facts">${told.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

// What fails in here says so, and leaves the rest of the page as it is.
export class Guarded extends Component {
  constructor() { super(); this.state = {error: null}; }
  static getDerivedStateFromError(error) { return {error}; }
  componentDidCatch(error) { console.warn("a part of the page failed:", error.message); }
  render({children}, {error}) {
    if (!error) return children;
    const again = () => this.setState({error: null});
    return html`<div class="failure" role="alert"><b>This part cannot be drawn.</b> ${error.message}
      <div><button type="button" onClick=${again}>Try again</button></div></div>`;
  }
}

export function Card({title, command, tools, children, flush, kind = "", id}) {
  const head = title ? html`<header><h2>${title}</h2>${tools}${command ? html`<${Command} text=${command} />` : null}</header>` : null;
  return html`<section class=${`card ${kind}`} data-testid=${id} aria-label=${typeof title === "string" ? title : undefined}>
    ${head}<div class=${`body ${flush ? "flush" : ""}`}><${Guarded}>${children}<//></div></section>`;
}

// Whether buttons that change something can be used now, and why not.
export function refusal() {
  if (embedded) return "this is a report";
  if (role.value === "view") return "this login may only look";
  return contact.value.live ? "" : "no contact";
}

export function Act({label, onClick, kind = "", command, busy, testid}) {
  const why = refusal();
  return html`<button type="button" class=${kind} disabled=${Boolean(why) || busy} onClick=${onClick} data-testid=${testid}
    title=${why || (command ? `$ ${command}` : undefined)}>${label}</button>`;
}

// What the server answers to a path; asked again every `every` ms while it is shown, and when `mark` changes.
export function useAnswer(path, {every = 0, mark = null} = {}) {
  const [found, setFound] = useState({path: null, body: null, error: null});
  useEffect(() => {
    if (!path) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const ask = async () => {
      try {
        const body = await get(path, abort.signal);
        setFound({path, body, error: null});
      } catch (error) {
        if (error.name === "AbortError") return;
        setFound((before) => ({path, body: before.path === path ? before.body : null, error}));
      }
      if (every && !embedded) timer = setTimeout(() => (document.hidden ? wait() : ask()), every);
    };
    const wait = () => { timer = setTimeout(() => (document.hidden ? wait() : ask()), every); };
    ask();
    return () => { abort.abort(); clearTimeout(timer); };
  }, [path, every, mark]);
  return found.path === path ? found : {path, body: null, error: null};
}

// Draws an answer, or why there is none.
export function Answer({of, children, waiting = "…"}) {
  if (of.body !== null) return children(of.body);
  return of.error ? html`<${Failure} error=${of.error} />` : html`<${Empty}>${waiting}<//>`;
}
