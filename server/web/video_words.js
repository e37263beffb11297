/** What the list of videos says about each of them. */

/** "12 s", "2 min". @param {number} seconds */
export function durationWords(seconds) {
  return seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

const soon = (etaS) => (typeof etaS === "number" ? `, ready in about ${durationWords(etaS)}` : "");

function placeWords(position) {
  if (typeof position !== "number") {
    return "Waiting";
  }
  return position === 0 ? "Next in line" : `Waiting behind ${position} other${position === 1 ? "" : "s"}`;
}

const statusWordings = {
  queued: ({ queue_position: position, eta_s: etaS }) => placeWords(position) + soon(etaS),
  in_progress: ({ progress, eta_s: etaS }) => `Being made: ${progress}%${soon(etaS)}`,
  completed: () => "Ready",
  failed: ({ error }) => `Failed: ${error?.message ?? "the server does not say why"}`,
  cancelled: () => "Cancelled",
};

/** @param {object} job a video of `/v1/videos` @returns {string} */
export function statusWords(job) {
  return statusWordings[job.status](job);
}

/** @param {object} job @returns {string} size, length and seed */
export function makeWords({ size, seconds, seed }) {
  return `${size.replace("x", "×")} · ${durationWords(Number(seconds))} · seed ${seed}`;
}
