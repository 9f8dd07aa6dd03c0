// Lines of one rank's log, fetched where they are shown, and searches in all of it.
import {get, query} from "./server.js";

const PAGE = 250, KEPT = 12_000, LONGEST = 3;

export class LogPages {
  // `changed` is called when lines came, or the log grew.
  constructor(id, rank, attempt, changed) {
    this.path = `/jobs/${encodeURIComponent(id)}/logs`;
    this.options = {rank, attempt};
    this.changed = changed;
    this.lines = new Map();
    this.loose = []; // the last lines where the copy on the master is far behind: they have no numbers
    this.total = 0;
    this.size = 0;
    this.known = false;
    this.error = null;
    this.unreadable = null;
    this.behind = null;
    this.abort = new AbortController();
    this.asked = new Set();
  }

  end() {
    this.abort.abort();
  }

  line(number) {
    return number > this.total ? this.loose[number - this.total - 1] : this.lines.get(number);
  }

  get rows() {
    return this.total + this.loose.length;
  }

  // The end of the log, and how long it is now.
  async tail() {
    await this.#ask({direction: "backward", count: PAGE});
  }

  // Fetch what is missing between two lines.
  async ensure(first, last) {
    const from = Math.max(1, first), to = Math.min(last, this.total);
    for (let page = Math.floor((from - 1) / PAGE); page <= Math.floor((to - 1) / PAGE); page += 1) {
      if (!this.asked.has(page)) this.#fill(page);
    }
  }

  async #fill(page) {
    this.asked.add(page);
    try {
      for (let round = 0; round < LONGEST * 8; round += 1) {
        const missing = this.#missing(page);
        if (missing === null) break;
        const came = await this.#ask({direction: "forward", from_line: missing, count: Math.min(PAGE, (page + 1) * PAGE - missing + 1)});
        if (!came) break;
      }
    } finally {
      this.asked.delete(page);
    }
  }

  #missing(page) {
    for (let number = page * PAGE + 1; number <= Math.min(this.total, (page + 1) * PAGE); number += 1) if (!this.lines.has(number)) return number;
    return null;
  }

  async #ask(options) {
    try {
      const body = await get(`${this.path}${query({...this.options, ...options})}`, this.abort.signal);
      this.#take(body, options.direction === "backward" && options.from_line === undefined);
      return body.shown.length;
    } catch (error) {
      if (error.name === "AbortError") return 0;
      this.error = error;
      this.changed();
      return 0;
    }
  }

  #take(body, atEnd) {
    this.error = null;
    this.known = true;
    if (body.lines < this.total) this.lines.clear(); // it was begun again
    if (body.lines !== this.total || body.unfinished) this.lines.delete(this.total); // the last line may have grown
    this.total = body.lines;
    this.size = body.size;
    this.unreadable = body.unreadable ?? null;
    if (atEnd) { this.behind = body.behind; this.loose = body.shown.filter((line) => line.number === null); }
    for (const line of body.shown) if (line.number !== null) this.lines.set(line.number, line);
    this.#forget(body.shown.find((line) => line.number !== null)?.number ?? this.total);
    this.changed();
  }

  #forget(near) {
    if (this.lines.size <= KEPT) return;
    const far = [...this.lines.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near));
    for (const number of far.slice(0, this.lines.size - KEPT / 2)) this.lines.delete(number);
  }
}

// Search whole logs, rank after rank; `found` gets the hits so far and how far the search is.
export async function search({id, ranks, attempt, words, regex, most, abort, found}) {
  const hits = [];
  for (const [place, rank] of ranks.entries()) {
    let from = 0;
    while (from !== null && hits.length < most) {
      const body = await get(`/jobs/${encodeURIComponent(id)}/logs/search${query({query: words, rank, attempt, regex: regex || "", from_offset: from || "", limit: Math.min(200, most - hits.length)})}`, abort);
      hits.push(...body.hits.map((hit) => ({...hit, rank})));
      from = body.next_offset;
      const share = from === null || !body.size ? 1 : from / body.size;
      found({hits: [...hits], done: (place + share) / ranks.length, over: from === null && place === ranks.length - 1});
    }
  }
  found({hits, done: 1, over: true});
}
