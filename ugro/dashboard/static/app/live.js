// The live view over one WebSocket: topics are watched while something shows them, and healed after any break.
import {signal, effect, batch} from "./html.js";
import {embedded, get, loggedIn, takeSession} from "./server.js";

const PAUSES = [1, 2, 5, 10];
const QUIET = 10_000; // ms without a message after which the server is asked whether it lives
const AGAIN = 5_000; // ms after which a topic that could not be read is asked for again
const PATIENCE = 5_000; // ms that it may take to answer

export const contact = signal({live: false, since: Date.now(), tried: false});
export const version = signal(null);
export const now = signal(Date.now());

const topics = new Map();
let socket = null, epoch = null, failures = 0, heard = 0, timer = 0;

function empty() {
  return {known: false};
}

function topicOf(name) {
  if (!topics.has(name)) topics.set(name, {state: signal(empty()), error: signal(null), seq: null, users: 0});
  return topics.get(name);
}

// Watch a topic: returns its signal and what ends the watching.
export function watch(name) {
  const topic = topicOf(name);
  topic.users += 1;
  if (topic.users === 1) subscribe();
  return {state: topic.state, error: topic.error, end() { topic.users -= 1; if (!topic.users) subscribe(); }};
}

export const cluster = topicOf("cluster").state;

function wanted() {
  return [...topics].filter(([, topic]) => topic.users > 0).map(([name]) => name);
}

function subscribe() {
  if (socket?.readyState !== WebSocket.OPEN || epoch === null) return;
  const names = document.hidden ? [] : wanted(), since = {};
  for (const name of names) if (topics.get(name).seq !== null) since[name] = topics.get(name).seq;
  socket.send(JSON.stringify({type: "subscribe", topics: names, since}));
}

function take(message) {
  if (message.type === "hello") {
    if (epoch !== null && message.epoch !== epoch) for (const topic of topics.values()) topic.seq = null;
    epoch = message.epoch;
    if (version.value && version.value.running !== message.version) version.value = {...version.value, updated: true};
    version.value ??= {running: message.version, updated: false};
    failures = 0;
    contact.value = {live: true, since: Date.now(), tried: true};
    subscribe();
    return;
  }
  if (message.type === "error") {
    if (!message.topic) return;
    topicOf(message.topic).error.value = message.error;
    setTimeout(subscribe, AGAIN); // the topic is over until it is asked for again
    return;
  }
  const topic = message.topic && topics.get(message.topic);
  if (!topic) return;
  topic.seq = message.seq;
  batch(() => {
    topic.error.value = null;
    topic.state.value = message.type === "snapshot" ? {...message.data, known: true} : merged(topic.state.value, message.data);
  });
}

// A delta has each changed item whole, and null for one that is gone.
export function merged(before, delta) {
  const after = {...before};
  for (const [name, value] of Object.entries(delta)) {
    const old = before[name];
    if (!isItems(value) || !isItems(old)) { after[name] = value; continue; }
    const items = {...old};
    for (const [key, item] of Object.entries(value)) if (item === null) delete items[key]; else items[key] = item;
    after[name] = items;
  }
  return after;
}

function isItems(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function read(text) {
  try { return JSON.parse(text); } catch { return {}; } // nothing of ours; the next message may be
}

export function connect() {
  if (embedded || !loggedIn.value || socket) return;
  clearTimeout(timer);
  const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`;
  const made = socket = new WebSocket(address);
  heard = Date.now();
  made.onmessage = (event) => {
    heard = Date.now();
    if (made === socket) take(read(event.data));
  };
  made.onclose = () => { if (made === socket) lost(); };
}

function lost() {
  socket = null;
  if (contact.value.live || !contact.value.tried) contact.value = {live: false, since: contact.value.live ? heard : contact.value.since, tried: true};
  const pause = PAUSES[Math.min(failures, PAUSES.length - 1)] * 1000 * (0.75 + Math.random() / 2);
  failures += 1;
  timer = setTimeout(retry, pause);
}

async function retry() {
  try {
    takeSession(await get("/session")); // a refused handshake does not say why: this does
  } catch (error) {
    if (error.status === 401) return;
  }
  connect();
}

export function retryNow() {
  clearTimeout(timer);
  failures = 0;
  connect();
}

// A connection can die without a word, as when a laptop sleeps.
async function listen() {
  if (!socket || document.hidden || Date.now() - heard < QUIET) return;
  const asked = socket, abort = new AbortController(), over = setTimeout(() => abort.abort(), PATIENCE);
  try {
    await fetch("/healthz", {signal: abort.signal, cache: "no-store"});
    heard = Date.now();
  } catch {
    if (asked === socket) { socket = null; asked.close(); lost(); }
  } finally {
    clearTimeout(over);
  }
}

export function start() {
  if (embedded) return;
  setInterval(() => { if (!document.hidden) now.value = Date.now(); }, 1000);
  setInterval(listen, 5000);
  document.addEventListener("visibilitychange", () => {
    now.value = Date.now();
    if (document.hidden) subscribe();
    else if (socket) { subscribe(); listen(); } else retryNow();
  });
  window.addEventListener("online", retryNow);
  effect(() => { if (loggedIn.value) connect(); });
}
