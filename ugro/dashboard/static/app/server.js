// Asks the server over HTTP. In a report the answers are in the page.
import {signal} from "./html.js";

const BASE = "/api/v1";

export const loggedIn = signal(true);
export const role = signal("operate");
export const mayLaunch = signal(false);

// Take what the server says of the login.
export function takeSession(session) {
  role.value = session.role;
  mayLaunch.value = session.launch;
  loggedIn.value = true;
}

// The documents of a report, by path; null on the live page.
export const embedded = readEmbedded();

function readEmbedded() {
  const found = document.getElementById("report-data");
  return found ? JSON.parse(found.textContent) : null;
}

// What the server refused, in its own words.
export class Refused extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(error.message || explain(status, body));
    this.status = status;
    this.code = error.code || "";
    this.hint = error.hint || "";
    this.body = body;
  }
}

function explain(status, body) {
  if (status === 0) return "the server does not answer";
  const detail = typeof body?.detail === "string" ? body.detail : "";
  return detail || `the server answered ${status}`;
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(BASE + path, {cache: "no-store", credentials: "same-origin", ...options});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, null);
  }
  let body = null;
  try {
    body = await answer.json();
  } catch { /* a proxy's page, or nothing */ }
  if (answer.status === 401) loggedIn.value = false;
  if (!answer.ok) throw new Refused(answer.status, body);
  return body;
}

export async function get(path, abort) {
  if (!embedded) return ask(path, {signal: abort});
  const key = keyOf(path);
  if (key in embedded) return embedded[key];
  throw new Refused(0, {error: {message: "this report does not have that", hint: ""}});
}

// A report has each document once, whatever part of it is asked for.
function keyOf(path) {
  const [place, options] = path.split("?"), x = new URLSearchParams(options).get("x");
  return x ? `${place}?x=${x}` : place;
}

export function send(method, path, body) {
  const headers = {"Content-Type": "application/json", "X-UGRO": "1"};
  return ask(path, {method, headers, body: JSON.stringify(body ?? {})});
}

export const post = (path, body) => send("POST", path, body);

// Exchange the one-time code of the address for a cookie; the code leaves the address and the history at once.
export async function logIn(code) {
  takeSession(await post("/login", {code}));
}

// The one-time code of the link that opened the page: taken out of the address before anything else reads that.
export const code = codeOfAddress();

function codeOfAddress() {
  const found = /^#t=([\w.~-]+)$/.exec(location.hash);
  if (found) history.replaceState(null, "", location.pathname + location.search);
  return found ? found[1] : null;
}

export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return text ? `?${text}` : "";
}
