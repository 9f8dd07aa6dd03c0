// The files of a job: its outputs that are on the master, and what its folder holds on each node.
import {html, useState} from "./html.js";
import {BASE, query} from "./server.js";
import {address, place} from "./router.js";
import {Answer, Card, Command, Empty, Foreign, copy, useAnswer} from "./parts.js";
import {bytes, clock, ended, number, plural, shell, visible} from "./words.js";

const FIRST = 50, MOST = 20_000; // names that are shown at first, and at most

export function Files({job}) {
  const {path = ""} = place.value.options;
  return html`<div class="stack">
    <${Outputs} job=${job} />
    ${job.nodes?.length ? html`<${OnNodes} key=${path} job=${job} path=${path} />` : html`<${Card} title="On its nodes"><${Empty}>it has not started, so it has no files<//><//>`}
  </div>`;
}

// --- on the master ---------------------------------------------------------------------------------------------------

function Outputs({job}) {
  const declared = job.outputs;
  return html`<${Card} title="Outputs" command=${`ugro pull ${job.id}`} id="outputs">
    ${declared ? html`<div class="stack tight"><p class="line tight"><span class="dim">declared:</span>${declared.globs.map((glob) => html`<code key=${glob}><${Foreign} text=${glob} /></code>`)}</p>
      <${Became} job=${job} outputs=${declared} /></div>`
    : html`<${Empty}>it declares none, so its files stay on its nodes: <code>--outputs 'out/**'</code> brings them to the master<//>`}<//>`;
}

// What became of them, and those that can be read here.
function Became({job, outputs}) {
  const [limit, setLimit] = useState(FIRST), comes = ["owed", "here", "partial"].includes(outputs.state);
  const found = useAnswer(comes ? `/jobs/${job.id}/outputs${query({limit})}` : null, {every: outputs.state === "owed" ? 5000 : 0, mark: `${outputs.state} ${outputs.files}`});
  const pull = html`<${Command} text=${`ugro pull ${job.id}`} />`, size = `${plural(outputs.files, "file")}, ${bytes(outputs.bytes)}`;
  const words = {
    owed: html`They are still to come${outputs.problem ? html`: <${Foreign} text=${outputs.problem} />` : null}`,
    here: html`${size}, on the master`,
    none: "No file has a name that it declares",
    partial: html`${size}, on the master; the others cannot be copied: <${Foreign} text=${outputs.problem} />`,
    too_large: html`${size}: too much to come by itself; it stays on the nodes until ${pull}`,
  }[outputs.state] ?? (ended(job) ? html`It did not succeed, so they stay on its nodes until ${pull}` : "They come to the master once it has succeeded");
  return html`<p class="line tight" role="status" data-testid="outputs-state">${words}</p>
    ${comes ? html`<${Answer} of=${found} waiting="reading the folder …">${(body) => html`
      ${body.files.length ? html`<p class="line tight"><span class="dim">in</span> <${Command} text=${shell(["ls", body.folder])} /></p>
      <div class="scroll"><table class="list" data-testid="outputs-list"><thead><tr><th>Name</th><th class="right">Size</th><th>Changed</th><th><span class="unseen">Get it</span></th></tr></thead>
        <tbody>${body.files.map((file) => html`<tr key=${file.path}><td class="name" title=${visible(file.path)}><span><${Foreign} text=${file.path} /></span></td><td class="right nowrap">${bytes(file.bytes)}</td><td class="nowrap">${clock(file.modified_at)}</td>
          <td class="right"><a href=${`${BASE}/jobs/${encodeURIComponent(job.id)}/files/${file.path.split("/").map(encodeURIComponent).join("/")}`} download aria-label=${`Download ${visible(file.path)}`}>download</a></td></tr>`)}</tbody></table></div>` : html`<${Empty}>none of them is here so far<//>`}
      <${Further} shown=${body.files.length} beyond=${body.beyond} limit=${limit} more=${() => setLimit(MOST)} />`}<//>` : null}`;
}

// What a list does not show, and how it would.
function Further({shown, beyond, unlisted = false, limit, more}) {
  if (!beyond && !unlisted) return null;
  return html`<p class="line small"><span class="dim">${number(shown)} of ${unlisted ? "more than " : ""}${plural(shown + beyond, "name")}</span>
    ${beyond && limit < MOST ? html`<button type="button" onClick=${more}>Show ${unlisted || shown + beyond > MOST ? `the first ${number(MOST)}` : "all of them"}</button>` : null}
    ${unlisted ? html`<span class="dim">Open a folder, or list one: ugro ls</span>` : null}</p>`;
}

// --- on its nodes ----------------------------------------------------------------------------------------------------

function OnNodes({job, path}) {
  const [limit, setLimit] = useState(FIRST), plain = visible(path) === path;
  const found = useAnswer(`/jobs/${job.id}/files${query({path, limit})}`, {every: ended(job) ? 0 : 15_000, mark: `${job.attempt} ${job.state}`});
  return html`<${Card} title="On its nodes" command=${`ugro ls ${job.id}${path && plain ? ` ${shell([path])}` : ""}`} id="files"><div class="stack">
    <${Folders} job=${job} path=${path} />
    <${Answer} of=${found} waiting="asking the nodes …">${(body) => html`
      ${body.nodes.map((node) => html`<${OnNode} key=${node.node} job=${job} path=${path} node=${node} limit=${limit} more=${() => setLimit(MOST)} />`)}
      ${body.silent.map((error) => html`<p class="note" key=${error.message}>${error.message}: its files are missing here. <span class="dim">${error.hint}</span></p>`)}`}<//></div><//>`;
}

// The way to the folder that is shown: each folder above it is a link.
function Folders({job, path}) {
  const names = path.split("/").filter(Boolean), to = (count) => address(["jobs", job.id, "files"], {path: names.slice(0, count).join("/")});
  return html`<nav class="line tight mono" aria-label="Folder" data-testid="folders">
    ${names.length ? html`<a href=${to(0)}>${job.id}</a>` : html`<b>${job.id}</b>`}
    ${names.map((name, at) => html`<span class="dim">/</span>${at < names.length - 1 ? html`<a href=${to(at + 1)}><${Foreign} text=${name} /></a>` : html`<b><${Foreign} text=${name} /></b>`}`)}</nav>`;
}

function OnNode({job, path, node, limit, more}) {
  return html`<section class="stack tight" aria-label=${`Files on ${node.node}`} data-testid=${`files-${node.node}`}>
    <h3>${node.node} <span class="name">${node.same_as.length ? `(the same disk: ${node.same_as.join(", ")}) ` : ""}<code><${Foreign} text=${node.folder} /></code></span></h3>
    ${!node.exists ? html`<${Empty}>no such path here<//>` : !node.files.length ? html`<${Empty}>empty<//>` : html`<div class="scroll"><table class="list">
      <thead><tr><th>Name</th><th class="right">Size</th><th>Changed</th><th><span class="unseen">Get it</span></th></tr></thead>
      <tbody>${node.files.map((file) => html`<${Row} key=${file.path} job=${job} path=${path} file=${file} />`)}</tbody></table></div>`}
    <${Further} shown=${node.files.length} beyond=${node.beyond} unlisted=${node.more} limit=${limit} more=${more} />
    ${node.unnamed ? html`<p class="dim small">${plural(node.unnamed, "name")} that are no UTF-8 are left out</p>` : null}
    ${node.unreadable.map((one) => html`<p class="dim small" key=${one}><${Foreign} text=${one} /> may not be read</p>`)}
  </section>`;
}

const KINDS = {link: "link, not followed", other: "no file"};

function Row({job, path, file}) {
  const name = path && file.path.startsWith(`${path}/`) ? file.path.slice(path.length + 1) : file.path;
  const pull = file.kind === "file" || file.kind === "folder" ? pullLine(job.id, file.path) : null;
  return html`<tr><td class="name" title=${visible(name)}><span>${file.kind === "folder" ? html`<a href=${address(["jobs", job.id, "files"], {path: file.path})}><${Foreign} text=${name} />/</a>` : html`<${Foreign} text=${name} />`}
      ${KINDS[file.kind] ? html` <span class="dim small">${KINDS[file.kind]}</span>` : null}</span></td>
    <td class="right nowrap">${file.kind === "file" ? bytes(file.bytes) : ""}</td><td class="nowrap">${clock(file.modified_at)}</td>
    <td class="right">${pull ? html`<button type="button" class="plain small dim" title=${`Copy: ${pull}`} aria-label=${`pull ${visible(name)}: copy the command`} onClick=${() => copy(pull)}>pull</button>` : null}</td></tr>`;
}

// The command that gets a file; null: its name has characters that no person should paste into a terminal.
export function pullLine(id, path) {
  if (visible(path) !== path || path.endsWith(" ")) return null;
  return `ugro pull ${shell([id, path.replaceAll(/[*?[\]\\]/g, "\\$&")])}`;
}
