// Starts the page: logs in, connects, and draws what the address names.
import {html, render, signal, useEffect, useState} from "./html.js";
import {code, get, loggedIn, logIn, role, takeSession} from "./server.js";
import {contact, now, retryNow, start, version, watch} from "./live.js";
import {address, place} from "./router.js";
import {Help, helping, startKeyboard} from "./keyboard.js";
import {nextTheme, theme} from "./theme.js";
import {Card, Command, Failure, Guarded, said} from "./parts.js";
import {Dialog} from "./dialog.js";
import {duration} from "./words.js";
import {ClusterPage} from "./cluster.js";
import {JobsPage} from "./jobs.js";
import {JobPage} from "./job.js";
import {SweepPage} from "./sweep.js";
import {HistoryPage} from "./history.js";

const PAGES = [["cluster", "Cluster"], ["jobs", "Jobs"], ["history", "History"]];
const TAB_OF = {sweeps: "jobs"};
const THEMES = {system: "◐", light: "☀", dark: "☾"};

function Top() {
  const [page = "cluster"] = place.value.parts, current = TAB_OF[page] ?? page;
  const {live} = contact.value;
  return html`<header class="top"><a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the content</a>
    <div class="row">
      <a class="brand" href=${address(["cluster"])}>UGRO</a>
      <nav class="tabs" aria-label="Pages">${PAGES.map(([name, title]) => html`
        <a href=${address([name])} aria-current=${current === name ? "page" : undefined}>${title}</a>`)}</nav>
      <span class="space"></span>
      <span class="contact" data-testid="contact"><span class=${`dot ${live ? "good" : "bad"}`}></span><span class=${live ? "hide-narrow" : ""}>${live ? "live" : "no contact"}</span>${role.value === "view" ? ", view only" : ""}</span>
      <button type="button" class="plain" onClick=${nextTheme} title=${`Colours: ${theme.value}`} aria-label=${`Colours: ${theme.value}; change`}>${THEMES[theme.value]}</button>
      <button type="button" class="plain" onClick=${() => { helping.value = true; }} title="Keys" aria-label="Keys">?</button>
    </div>
    <${Band} />
  </header>`;
}

// What stands across the page: no contact, or a newer UGRO.
function Band() {
  const {live, since, tried} = contact.value;
  if (version.value?.updated) {
    return html`<div class="band" role="status">UGRO was updated. <button type="button" onClick=${() => location.reload()}>Reload</button></div>`;
  }
  if (live || !tried) return null;
  return html`<div class="band" role="status" data-testid="band">no contact for ${duration((now.value - since) / 1000)}; what is shown is from before
    <button type="button" onClick=${retryNow}>Try now</button></div>`;
}

function Page() {
  const {parts: [page, id]} = place.value;
  useEffect(() => { document.title = [id, PAGES.find(([name]) => name === (TAB_OF[page] ?? page))?.[1] ?? "Cluster", "UGRO"].filter(Boolean).join(" · "); }, [page, id]);
  if (page === "jobs" && id) return html`<${JobPage} key=${id} id=${id} />`;
  if (page === "jobs") return html`<${JobsPage} />`;
  if (page === "sweeps" && id) return html`<${SweepPage} key=${id} id=${id} />`;
  if (page === "history") return html`<${HistoryPage} />`;
  if (!page || page === "cluster") return html`<${ClusterPage} />`;
  return html`<div class="title"><h1>There is no such page</h1></div><p>The address names nothing: <a href=${address(["cluster"])}>cluster</a></p>`;
}

const failed = signal(null);

function Login() {
  const [code, setCode] = useState("");
  const enter = async (event) => {
    event.preventDefault();
    await tryCode(code.trim().replace(/^.*#t=/, ""));
  };
  return html`<main class="login frame"><${Card} title="Log in">
    <form class="stack" onSubmit=${enter}>
      ${failed.value ? html`<${Failure} error=${failed.value} />` : null}
      <p>On the machine where <code>ugro serve</code> runs:</p>
      <div><${Command} text="ugro dashboard" /></div>
      <p class="dim">It opens this page with a link that is good once, for a minute. Or paste that link, or a token, here:</p>
      <label class="line"><span>Link or token</span><input value=${code} onInput=${(event) => setCode(event.target.value)} autocomplete="off" size="30" type="password" /></label>
      <div><button type="submit" class="primary" disabled=${!code.trim()}>Log in</button></div>
    </form><//></main>`;
}

async function tryCode(code) {
  try {
    await logIn(code);
    failed.value = null;
  } catch (error) {
    failed.value = error;
    loggedIn.value = false;
  }
}

function App() {
  useEffect(() => watch("cluster").end, []);
  if (!loggedIn.value) return html`<${Login} />`;
  return html`<${Top} /><main id="main" class="frame" tabindex="-1"><${Guarded} key=${place.value.parts.join("/")}><${Page} /><//></main>
    <${Dialog} /><${Help} /><div class="toast" role="status" hidden=${!said.value}>${said.value}</div>`;
}

async function begin() {
  if (code) await tryCode(code);
  else {
    try { takeSession(await get("/session")); } catch { /* a refusal shows the login, and no answer the band */ }
  }
  document.getElementById("waiting")?.remove();
  render(html`<${App} />`, document.getElementById("app"));
  startKeyboard();
  start();
}

begin();
