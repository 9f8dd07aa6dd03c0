// Questions before something is changed: what will happen, the command that does the same, yes or no.
import {html, signal, useEffect, useRef, useState} from "./html.js";
import {post, Refused} from "./server.js";
import {Command, Facts, Failure, say} from "./parts.js";

const asked = signal(null);

// Ask; resolves to {answers, values} or null.
export function ask(question) {
  return new Promise((answer) => { asked.value = {...question, answer}; });
}

// Carry out an action. What needs consent is asked here: the server's questions and what they are about.
export async function carryOut({path, body = {}, title, verb, command, facts = [], danger, fields = [], done, confirm = true}) {
  let sent = body;
  if (confirm) {
    const first = await ask({title, verb, command, facts, danger, fields});
    if (!first) return null;
    sent = {...body, ...first.values};
  }
  for (;;) {
    try {
      const answer = await post(path, sent);
      say(done);
      return answer;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      const plan = planOf(error);
      const next = plan
        ? await ask({title, verb, command, danger, facts: effects(plan), questions: plan.questions ?? [], error: sent.fingerprint ? error : null})
        : await ask({title: `${title}: refused`, error, verb: null});
      if (!next) return null;
      if (!plan) return null;
      sent = {...sent, answers: next.answers, fingerprint: plan.fingerprint};
    }
  }
}

function planOf(error) {
  if (error.status !== 409) return null;
  const plan = error.body?.plan ?? error.body;
  return plan?.fingerprint ? plan : null;
}

// The effects of a plan as rows; typed fields become text here, never markup.
function effects(plan) {
  const found = plan.effects ?? {};
  const rows = Array.isArray(found) ? found.map((one) => ["", plain(one)]) : Object.entries(found).map(([name, value]) => [name.replaceAll("_", " "), plain(value)]);
  return rows.filter(([, value]) => value);
}

function plain(value) {
  if (value === null || value === undefined || value === "" || value === false) return "";
  if (Array.isArray(value)) return value.map(plain).filter(Boolean).join("; ");
  if (typeof value === "object") {
    if ("after" in value && "name" in value) return `${value.name} ${value.before ?? "(not given)"} → ${value.after}`;
    return Object.entries(value).map(([name, one]) => (plain(one) ? `${name}: ${plain(one)}` : "")).filter(Boolean).join(", ");
  }
  return String(value);
}

function Field({field, value, set}) {
  const change = (event) => set(field.type === "checkbox" ? event.target.checked : event.target.value);
  const input = field.type === "checkbox"
    ? html`<input type="checkbox" checked=${value} onChange=${change} id=${`field-${field.name}`} />`
    : html`<input type=${field.type ?? "text"} value=${value} onInput=${change} id=${`field-${field.name}`} required=${field.required} size="32" />`;
  return html`<label class="line" for=${`field-${field.name}`}>${field.type === "checkbox" ? [input, field.label] : [html`<span>${field.label}</span>`, input]}</label>`;
}

// One question that the plan needs is answered by the button; more of them, and optional ones, have a box each.
function Question({question, alone, answer, set}) {
  return html`<div class="note">
    ${question.facts?.map((fact) => html`<div class="dim">${fact}</div>`)}
    ${alone ? html`<div>${question.text}</div>` : html`<label class="line"><input type="checkbox" checked=${answer} onChange=${(event) => set(event.target.checked)} /> ${question.text}</label>`}
  </div>`;
}

export function Dialog() {
  const box = useRef(null), question = asked.value;
  const [answers, setAnswers] = useState({}), [values, setValues] = useState({});
  useEffect(() => {
    if (!question) return;
    const needed = (question.questions ?? []).filter((one) => !one.optional);
    setAnswers(Object.fromEntries((question.questions ?? []).map((one) => [one.id, (needed.length === 1 && one === needed[0]) || (one.default ?? false)])));
    setValues(Object.fromEntries((question.fields ?? []).map((one) => [one.name, one.value ?? ""])));
    if (!box.current.open) box.current.showModal();
  }, [question]);
  const end = (answer) => { box.current?.close(); asked.value = null; question.answer(answer); };
  useEffect(() => { // it is about the page below: who leaves that, leaves the question
    if (!question) return;
    const left = () => end(null);
    window.addEventListener("hashchange", left);
    return () => window.removeEventListener("hashchange", left);
  }, [question]);
  if (!question) return null;
  const missing = (question.questions ?? []).filter((one) => !one.optional && !answers[one.id]);
  const yes = (event) => { event.preventDefault(); end({answers, values: typed(question.fields ?? [], values)}); };
  return html`<dialog ref=${box} aria-labelledby="dialog-title" data-testid="dialog" onCancel=${(event) => { event.preventDefault(); end(null); }}>
    <form method="dialog" onSubmit=${yes}>
      <h1 id="dialog-title">${question.title}</h1>
      ${question.error ? html`<${Failure} error=${question.error} />` : null}
      ${question.facts?.length ? html`<div class="effects"><${Facts} rows=${question.facts} /></div>` : null}
      ${question.fields?.map((field) => html`<${Field} field=${field} value=${values[field.name] ?? ""} set=${(value) => setValues({...values, [field.name]: value})} />`)}
      ${question.questions?.map((one) => html`<${Question} question=${one} alone=${!one.optional && question.questions.filter((other) => !other.optional).length === 1} answer=${answers[one.id] ?? false} set=${(answer) => setAnswers({...answers, [one.id]: answer})} />`)}
      ${question.command ? html`<div class="dim line tight">the same: <${Command} text=${question.command} /></div>` : null}
      <div class="buttons">
        <button type="button" onClick=${() => end(null)} data-testid="dialog-no">${question.verb ? "Leave it" : "Close"}</button>
        ${question.verb ? html`<button type="submit" class=${`primary ${question.danger ? "danger" : ""}`} disabled=${missing.length > 0} data-testid="dialog-yes">${question.verb}</button>` : null}
      </div>
    </form>
  </dialog>`;
}

function typed(fields, values) {
  const found = {};
  for (const field of fields) {
    const value = values[field.name];
    if (value === "" || value === undefined) continue;
    found[field.name] = field.type === "number" ? Number(value) : value;
  }
  return found;
}
