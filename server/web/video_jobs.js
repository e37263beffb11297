/**
 * The videos that the server makes in the background, as it lists them. The one that is being made is followed by
 * its events; those that wait behind it are asked after now and then, for their place and their time.
 */

import { addressOf, ask } from "./rest.js";

const PAGE_LENGTH = 12;
const ASK_EVERY_MS = 5000;
const MOST_ASKED = 4;
const EVENT_KINDS = ["queued", "in_progress", "progress", "restarted", "completed", "failed", "cancelled", "deleted"];

/** Whether nothing more happens to a video. @param {{status: string}} job */
export function isOver({ status }) {
  return ["completed", "failed", "cancelled"].includes(status);
}

export class VideoJobs {
  /**
   * @param {object} listener
   * @param {(jobs: object[], hasMore: boolean) => void} listener.changed the newest first
   * @param {(job: object) => void} listener.ended a video that was followed is over
   * @param {(message: string) => void} listener.failed the list cannot be had; "" once it can again
   */
  constructor(listener) {
    this.listener = listener;
    // The newest first, as the server lists them.
    this.jobs = [];
    this.hasMore = false;
    this.followed = null;
    this.source = null;
    this.asking = new Set();
    this.askAgain = new Set();
  }

  /** Load the list, and keep it fresh for as long as the page is open. */
  begin() {
    this.load();
    setInterval(() => this.#askAfterWaiting(), ASK_EVERY_MS);
    document.addEventListener("visibilitychange", () => document.hidden || this.load());
  }

  /** Load the newest page of the list, or the one behind those that are there. @param {{older?: boolean}} [which] */
  async load({ older = false } = {}) {
    const after = older ? `&after=${this.jobs.at(-1).id}` : "";
    try {
      const page = await ask(`/v1/videos?limit=${PAGE_LENGTH}${after}`);
      const fresh = page.data.map((job) => this.#withPlace(job));
      const ids = new Set(fresh.map(({ id }) => id));
      const others = this.jobs.filter(({ id }) => !ids.has(id));
      this.jobs = older ? [...others, ...fresh] : [...fresh, ...others];
      if (older || others.length === 0) {
        this.hasMore = page.has_more;
      }
      this.listener.failed("");
      this.#changed();
    } catch (error) {
      this.listener.failed(error.message);
    }
  }

  /** @param {{prompt: string, size: string, seconds: string, seed?: number}} wish @returns {Promise<object>} */
  async create(wish) {
    const job = await ask("/v1/videos", { method: "POST", body: wish });
    this.jobs.unshift(job);
    this.#changed();
    return job;
  }

  /** @param {string} id */
  async cancel(id) {
    this.#take(await ask(`/v1/videos/${id}/cancel`, { method: "POST" }));
  }

  /** @param {string} id */
  async remove(id) {
    await ask(`/v1/videos/${id}`, { method: "DELETE" });
    this.#forget(id);
  }

  #find(id) {
    return this.jobs.find((job) => job.id === id);
  }

  /** A list does not tell the places in the queue: the ones known so far stay. */
  #withPlace(job) {
    const { queue_position: place = null, eta_s: eta = null } = this.#find(job.id) ?? {};
    return { ...job, queue_position: job.queue_position ?? place, eta_s: job.eta_s ?? eta };
  }

  /** Those that are not over, the one that is being made first, then in the order of the queue. */
  #unfinished() {
    const waiting = this.jobs.filter((job) => !isOver(job)).reverse();
    return [...waiting.filter((job) => job.status === "in_progress"), ...waiting.filter((job) => job.status === "queued")];
  }

  #take(job) {
    const before = this.#find(job.id);
    if (before === undefined) {
      return;
    }
    this.jobs = this.jobs.map((known) => (known === before ? job : known));
    if (!isOver(before) && isOver(job)) {
      this.listener.ended(job);
    }
    this.#changed();
  }

  #forget(id) {
    this.jobs = this.jobs.filter((job) => job.id !== id);
    this.#changed();
  }

  #changed() {
    this.#follow();
    this.listener.changed(this.jobs, this.hasMore);
  }

  /** One connection for events, however many videos wait: a browser opens few to one server. */
  #follow() {
    const id = this.#unfinished()[0]?.id ?? null;
    if (id === this.followed) {
      return;
    }
    this.source?.close();
    this.source = null;
    this.followed = id;
    if (id !== null) {
      this.#listen(id);
    }
  }

  async #listen(id) {
    let address;
    try {
      address = await addressOf(`/v1/videos/${id}/events`);
    } catch (error) {
      // It is asked after now and then anyway.
      this.listener.failed(error.message);
      return;
    }
    if (this.followed === id) {
      this.source = new EventSource(address);
      EVENT_KINDS.forEach((kind) => this.source.addEventListener(kind, () => this.#ask(id)));
    }
  }

  /** Fetch one video; what happens meanwhile is fetched once more, at the end. */
  async #ask(id) {
    if (this.asking.has(id)) {
      this.askAgain.add(id);
      return;
    }
    this.asking.add(id);
    try {
      this.#take(await ask(`/v1/videos/${id}`));
    } catch (error) {
      if (error.status === 404) {
        this.#forget(id);
      } else {
        this.listener.failed(error.message);
      }
    }
    this.asking.delete(id);
    if (this.askAgain.delete(id)) {
      this.#ask(id);
    }
  }

  #askAfterWaiting() {
    if (!document.hidden) {
      this.#unfinished().slice(0, MOST_ASKED).forEach(({ id }) => this.#ask(id));
    }
  }
}
