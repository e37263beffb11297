/** The list of videos: recordings of this tab, and what the server makes in the background. */

import { Recordings } from "./recordings.js";
import { addressOf } from "./rest.js";
import { VideoCard } from "./video_card.js";
import { VideoJobs, isOver } from "./video_jobs.js";
import { durationWords, makeWords, statusWords } from "./video_words.js";

const LOOKS = { queued: "waiting", in_progress: "working", completed: "ready", failed: "broken", cancelled: "broken" };

const byId = (id) => document.getElementById(id);

export class VideosView {
  /**
   * @param {object} page
   * @param {() => object | null} page.wish prompt, size and seed as they stand in the composer; null without a prompt
   * @param {(text: string) => void} page.announce
   */
  constructor({ wish, announce }) {
    this.wish = wish;
    this.announce = announce;
    this.recordings = new Recordings();
    this.cards = new Map();
    this.jobs = [];
    this.api = new VideoJobs({
      changed: (jobs, hasMore) => {
        this.jobs = jobs;
        byId("more-videos").hidden = !hasMore;
        this.#draw();
      },
      ended: (job) => this.announce(`${statusWords(job)}: ${job.prompt}`),
      failed: (message) => this.#notice(message && `The list cannot be loaded: ${message}`),
    });
    byId("make-video").addEventListener("click", () => this.#make());
    byId("more-videos").addEventListener("click", () => this.api.load({ older: true }));
    this.#draw();
  }

  /** Load the list and keep it fresh. */
  begin() {
    this.api.begin();
  }

  /** A recorded session is over. @param {import("./recordings.js").Recording} recording */
  addRecording(recording) {
    this.recordings.add(recording);
    this.#draw();
    this.announce("The recording is ready.");
  }

  async #make() {
    const wish = this.wish();
    if (wish === null) {
      return;
    }
    await this.#try(async () => {
      const job = await this.api.create({ ...wish, seconds: byId("seconds").value });
      this.announce(`${statusWords(job)}: ${job.prompt}`);
    });
  }

  /** What the server refuses is said beside the list. */
  async #try(work) {
    this.#notice("");
    try {
      await work();
    } catch (error) {
      this.#notice(error.message);
    }
  }

  #notice(text) {
    byId("videos-notice").textContent = text;
  }

  #draw() {
    const contents = new Map([
      ...this.recordings.all.map((recording) => [recording.id, this.#recordingContent(recording)]),
      ...this.jobs.map((job) => [job.id, this.#jobContent(job)]),
    ]);
    for (const [id, card] of this.cards) {
      if (!contents.has(id)) {
        this.#dismiss(id, card);
      }
    }
    let last = null;
    for (const [id, content] of contents) {
      const card = this.cards.get(id) ?? new VideoCard();
      this.cards.set(id, card);
      card.show(content);
      last = this.#place(card.element, last);
    }
    byId("no-videos").hidden = contents.size > 0;
  }

  /** Put a card behind another one, without moving it (and so stopping its player) if it is there already. */
  #place(element, last) {
    const list = byId("videos");
    const next = last === null ? list.firstElementChild : last.nextElementSibling;
    if (next !== element) {
      list.insertBefore(element, next);
    }
    return element;
  }

  /** Somebody at the keyboard who removed a video goes on at the list, not at the top of the page. */
  #dismiss(id, card) {
    const hadFocus = card.element.contains(document.activeElement);
    card.element.remove();
    this.cards.delete(id);
    if (hadFocus) {
      byId("videos-title").focus();
    }
  }

  #recordingContent({ id, prompt, seconds, addresses }) {
    return {
      title: prompt,
      status: "Recording of a live stream",
      make: durationWords(seconds),
      look: "ready",
      progress: null,
      addresses,
      // These open what they stand for by themselves.
      open: async (address) => address,
      actions: [{ label: "Forget", run: () => this.#forget(id) }],
    };
  }

  #forget(id) {
    this.recordings.forget(id);
    this.#draw();
  }

  #jobContent(job) {
    const { id, status } = job;
    const expired = typeof job.expires_at === "number" && job.expires_at * 1000 < Date.now();
    const isThere = status === "completed" && !expired;
    const remove = { label: "Delete", sure: true, run: () => this.#try(() => this.api.remove(id)) };
    const cancel = { label: "Cancel", run: () => this.#try(() => this.api.cancel(id)) };
    return {
      title: job.prompt,
      status: status === "completed" && expired ? "Expired: the file has been removed" : statusWords(job),
      make: makeWords(job),
      look: isThere || status !== "completed" ? LOOKS[status] : "broken",
      progress: isOver(job) ? null : job.progress,
      addresses: isThere ? [`/v1/videos/${id}/content`] : [],
      open: addressOf,
      actions: [isOver(job) ? remove : cancel],
    };
  }
}
