// A proposal, and its answer: yes shows first what will change.
import {html, useState} from "./html.js";
import {address} from "./router.js";
import {Act, Command} from "./parts.js";
import {carryOut} from "./dialog.js";

export function Proposal({proposal, where = "list"}) {
  const [busy, setBusy] = useState(false);
  const {job, attempt, cause, what} = proposal;
  const act = async (options) => {
    setBusy(true);
    try { await carryOut(options); } finally { setBusy(false); }
  };
  const approve = () => act({
    path: `/jobs/${job}/approve`, title: `Approve what is proposed for ${job}?`, verb: "Approve", command: `ugro approve ${job}`, confirm: false,
    done: `${job}: approved`, body: {attempt},
  });
  const deny = () => act({
    path: `/jobs/${job}/deny`, title: `Leave ${job} as it is?`, verb: "Deny", command: `ugro deny ${job}`, danger: true,
    facts: [["proposal", what], ["after that", "it can still be resumed by hand"]], done: `${job}: denied`, body: {attempt},
  });
  return html`<div class="proposal" data-testid=${`proposal-${job}`}>
    <span class="line"><b class="warn">Proposal</b>${where === "list" ? html`<a href=${address(["jobs", job])}>${job}</a>` : null}<span class="badge failed">${cause}</span></span>
    <span>${what}</span>
    <span class="line"><${Act} label="Approve…" kind="primary" onClick=${approve} busy=${busy} command=${`ugro approve ${job}`} testid="approve" />
      <${Act} label="Deny…" onClick=${deny} busy=${busy} command=${`ugro deny ${job}`} testid="deny" />
      <${Command} text=${`ugro explain ${job}`} /></span>
  </div>`;
}
