// What can be done about a job. Each button names the command that does the same, and asks first.
import {html, useState} from "./html.js";
import {mayLaunch} from "./server.js";
import {go} from "./router.js";
import {Act} from "./parts.js";
import {carryOut} from "./dialog.js";
import {now} from "./live.js";
import {ended, lasting, launchLine, plural, shell} from "./words.js";

export function Actions({job, proposal}) {
  const [busy, setBusy] = useState(false);
  const act = async (options) => {
    setBusy(true);
    try { return await carryOut(options); } finally { setBusy(false); }
  };
  const button = (name, label, kind = "") => {
    const plan = plans[name](job);
    return html`<${Act} key=${name} label=${label} kind=${kind} busy=${busy} command=${plan.command} testid=${`do-${name}`}
      onClick=${() => act({...plan, path: `/jobs/${job.id}/${name}`, body: {attempt: job.attempt, ...plan.body}})} />`;
  };
  const waits = job.state === "queued" || job.state === "held", over = ended(job);
  return html`<div class="line actions">
    ${job.state === "queued" ? button("hold", "Hold…") : null}
    ${job.state === "held" ? button("release", "Release…", "primary") : null}
    ${waits ? button("priority", "Priority…") : null}
    ${job.state === "running" ? button("checkpoint", "Save a checkpoint…") : null}
    ${over ? button("resume", "Resume…", proposal ? "" : "primary") : button("cancel", "Cancel…", "danger")}
    ${job.command?.length && mayLaunch.value ? html`<${Act} label="Launch again…" kind="plain" busy=${busy} command=${launchLine(job).line} testid="do-again" onClick=${() => again(job, act)} />` : null}
  </div>`;
}

const SAVE_SECONDS = 5; // that the page waits for the checkpoint; it comes into the list whenever it is complete

const plans = {
  cancel: (job) => ({
    title: `Cancel ${job.id}?`, verb: "Cancel the job", danger: true, command: `ugro cancel ${job.id}`, done: `${job.id}: cancel requested`,
    facts: [
      ["job", `${job.name}, attempt ${job.attempt}, ${job.state}`],
      ["ends", job.ranks?.length ? `${plural(job.ranks.length, "rank")} on ${(job.nodes ?? []).join(", ")}` : "no rank: it has not started"],
      ["so far", job.started_at ? `it runs ${lasting(job, now.value)}` : null],
      ["kept", "checkpoints, logs and curves; it can be resumed"],
    ],
  }),
  hold: (job) => ({
    title: `Hold ${job.id}?`, verb: "Hold", command: `ugro hold ${job.id}`, done: `${job.id}: held`,
    facts: [["effect", "it does not start until it is released"]], fields: [{name: "reason", label: "Reason"}],
  }),
  release: (job) => ({title: `Release ${job.id}?`, verb: "Release", command: `ugro release ${job.id}`, done: `${job.id}: released`, facts: [["effect", "it takes its turn in the queue again"]]}),
  priority: (job) => ({
    title: `Priority of ${job.id}`, verb: "Set", command: `ugro reprioritize ${job.id} N`, done: `${job.id}: priority set`,
    facts: [["now", String(job.priority ?? 0)], ["effect", "a higher one starts sooner"]], fields: [{name: "priority", label: "New priority", type: "number", value: String(job.priority ?? 0)}],
  }),
  checkpoint: (job) => ({
    body: {wait: SAVE_SECONDS}, title: `Ask ${job.id} to save now?`, verb: "Save", command: `ugro checkpoint ${job.id}`, done: `${job.id}: asked to save`,
    facts: [["effect", "its script gets SIGUSR1 where it catches that; training continues"]],
  }),
  resume: (job) => ({title: `Resume ${job.id}?`, verb: "Resume", command: `ugro resume ${job.id}`, done: `${job.id}: resumed`, confirm: false}),
};

async function again(job, act) {
  const {rest, line} = launchLine(job);
  const answer = await act({
    path: "/jobs", title: `Launch ${job.name} again`, verb: "Launch", command: line, done: "launched",
    body: {like: job.id},
    facts: [["job", "a new one, with the code as it was and these words"]],
    fields: [{name: "name", label: "Name", value: job.name}, {name: "arguments", label: "Arguments", value: shell(rest)}],
  });
  if (answer?.id) go(["jobs", answer.id]);
}
