/** Recordings of this tab's sessions. Their addresses are secrets and live in the tab, also over a reload. */

const KEY = "ultraflash.recordings";
const MOST = 20;
// The server's tokens for recordings are good for a day.
const LIFETIME_MS = 24 * 3600 * 1000;

/**
 * @typedef {object} Recording
 * @property {string} id
 * @property {string} prompt with which the session began
 * @property {number} seconds
 * @property {string[]} addresses of its parts
 * @property {number} endedAt Unix time in ms
 */

/**
 * @param {object} event `session.done` of a session that was recorded
 * @returns {Recording | null} null where it ended before its first frame
 */
export function recordingOf({ recording: addresses, frames, replay }) {
  if (addresses.length === 0) {
    return null;
  }
  const [, id] = /sessions\/([^/]+)\/recording/.exec(addresses[0]);
  return { id, prompt: replay.events[0].prompt, seconds: frames / replay.fps, addresses, endedAt: Date.now() };
}

export class Recordings {
  constructor(storage = sessionStorage) {
    this.storage = storage;
  }

  /** @returns {Recording[]} the newest first */
  get all() {
    const kept = JSON.parse(this.storage.getItem(KEY) ?? "[]");
    return kept.filter(({ endedAt }) => Date.now() - endedAt < LIFETIME_MS);
  }

  /** @param {Recording} recording */
  add(recording) {
    this.#keep([recording, ...this.all].slice(0, MOST));
  }

  /** Forget where it is; the file stays on the server. @param {string} id */
  forget(id) {
    this.#keep(this.all.filter((recording) => recording.id !== id));
  }

  #keep(recordings) {
    this.storage.setItem(KEY, JSON.stringify(recordings));
  }
}
