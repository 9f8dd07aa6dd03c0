// A report of one job: the same parts as on the page, fed by the documents in this file. Nothing is asked of a server.
import {html, render, useEffect, useRef} from "./html.js";
import {embedded} from "./server.js";
import {nextTheme, theme} from "./theme.js";
import {Card, Empty, said} from "./parts.js";
import {Head} from "./job.js";
import {Curves} from "./curves.js";
import {Diagnosis} from "./explain.js";
import {Attempts, Ranks} from "./overview.js";
import {Events, listed} from "./timeline.js";
import {Checkpoints} from "./checkpoints.js";
import {Spec} from "./spec.js";
import {clock, plural, progressOf} from "./words.js";

function Report() {
  const {job, made_at: made, version} = embedded, path = `/jobs/${job.id}`;
  const explained = embedded[`${path}/explain`], logs = embedded[`${path}/logs`] ?? [];
  return html`<div class="report"><main class="frame">
    <${Head} job=${job} progress=${progressOf(job.progress)} proposal=${null} />
    <p class="line apart dim small"><span>Report of ${clock(made)} by UGRO ${version}</span><button type="button" class="plain" onClick=${nextTheme}>colours: ${theme.value}</button></p>
    <div class="stack">
      ${explained ? html`<${Card} title="Why it failed" kind="attention bad" command=${`ugro explain ${job.id}`} id="explain"><${Diagnosis} found=${explained} /><//>` : null}
      <${Curves} job=${job} />
      ${job.ranks?.length ? html`<${Ranks} job=${job} />` : null}
      ${job.attempts?.length > 1 ? html`<${Attempts} job=${job} />` : null}
      <${Card} title="Timeline" command=${`ugro events ${job.id}`} id="timeline"><${Events} events=${listed(embedded[`${path}/events`] ?? [])} /><//>
      ${`${path}/checkpoints` in embedded ? html`<${Checkpoints} job=${job} />` : null}
      <${Card} title="Ends of the logs" command=${`ugro logs ${job.id} --tail 200`} id="log-ends"><${LogEnds} logs=${logs} /><//>
      <${Spec} job=${job} />
    </div></main><div class="toast" role="status" hidden=${!said.value}>${said.value}</div></div>`;
}

function LogEnds({logs}) {
  if (!logs.length) return html`<${Empty}>there is no log<//>`;
  return logs.map((log) => html`<h3>${log.rank === null ? `torchrun on ${log.node}` : `rank ${log.rank}`} <span class="dim">last ${plural(log.lines.length, "line")}</span></h3>
    <${LogEnd} log=${log} />`);
}

function LogEnd({log}) {
  const box = useRef(null);
  useEffect(() => { box.current.scrollTop = box.current.scrollHeight; }, []); // what came last is what is looked for
  return html`<div ref=${box} class=${`log-end evidence rank${(log.rank ?? 0) % 8}`} tabindex="0">${log.lines.map((text, at) => html`<div key=${at}>${text || " "}</div>`)}</div>`;
}

render(html`<${Report} />`, document.getElementById("app"));
