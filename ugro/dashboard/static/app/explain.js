// Why a job failed: cause, evidence, what it cost, what to do.
import {html} from "./html.js";
import {Answer, Card, Command, Facts, useAnswer} from "./parts.js";
import {clock, duration, number} from "./words.js";

export function Explain({job}) {
  const found = useAnswer(`/jobs/${job.id}/explain`, {mark: `${job.attempt} ${job.state}`});
  return html`<${Card} title="Why it failed" kind="attention bad" command=${`ugro explain ${job.id}`} id="explain">
    <${Answer} of=${found} waiting="reading its logs …">${(body) => html`<${Diagnosis} found=${body.answer ?? body} words=${body.words} />`}<//><//>`;
}

export function Diagnosis({found, words}) {
  if (!found.cause) return html`<p>No failure was found.</p>`;
  const where = [found.rank !== null && found.rank !== undefined ? `rank ${found.rank}` : null, found.node].filter(Boolean).join(" on ");
  const last = found.last_checkpoint;
  return html`<div class="stack tight">
    <p class="line"><span class="badge failed">${found.cause}</span><b>${found.message || words || ""}</b></p>
    ${found.evidence?.length && found.evidence.join() !== found.message ? html`<pre class="evidence">${found.evidence.join("\n")}</pre>` : null}
    ${found.suggestion ? html`<p>${found.suggestion}</p>` : null}
    <${Facts} rows=${[
      ["first", where || null], ["at", found.where],
      ["exit", found.signal ? `SIG${found.signal}` : found.exit_code === null || found.exit_code === undefined ? null : String(found.exit_code)],
      ["reached", found.step ? `step ${number(found.step)}${found.steps ? ` of ${number(found.steps)}` : ""}` : null],
      ["last checkpoint", last ? `${last.step === null ? last.name : `step ${number(last.step)}`}, saved ${clock(last.saved_at)}` : null],
      ["lost", found.lost_seconds ? duration(found.lost_seconds) : null],
      ["follow-on errors", found.consequences ? String(found.consequences) : null],
      ["the same again?", found.retry_helps === null || found.retry_helps === undefined ? null : found.retry_helps ? "a retry may help" : "a retry would fail the same way"],
      ...Object.entries(found.facts ?? {}),
      ["resume", found.resume ? html`<${Command} text=${found.resume} />` : null],
    ]} />
  </div>`;
}
