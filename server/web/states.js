/** What the page says in each state of the player. */

import { durationWords } from "./video_words.js";

const seconds = (ms) => Math.max(1, Math.ceil(ms / 1000));

/**
 * @typedef {object} Wording
 * @property {string} pill short name of the state
 * @property {boolean} [curtain] whether a card lies over the picture
 * @property {boolean} [busy] whether something is being waited for
 * @property {string} [title]
 * @property {string} [detail]
 * @property {number | null} [progress] 0 to 1, null when unknown
 * @property {{label: string, command: string}} [action]
 */

const OWN_END_REASONS = {
  stopped: "You stopped it.",
  max_frames: "It reached its length.",
  no_ack: "The page showed nothing for a minute, so the server ended the session.",
  paused_too_long: "It was paused for too long, so the server ended the session.",
  disconnected: "The connection was lost for too long.",
  engine_fault: "The engine failed.",
};

const WATCHED_END_REASONS = {
  left: "You left.",
  engine_fault: "The engine failed.",
  disconnected: "Its owner did not come back.",
};

const AGAIN = { label: "Play again", command: "play" };
const ONCE_MORE = { label: "Try again", command: "play" };
const RETRY = { label: "Retry now", command: "retryNow" };

const wordings = {
  idle: () => ({ pill: "Ready" }),
  connecting: ({ message, detail }) => ({
    pill: "Connecting",
    curtain: true,
    busy: true,
    title: message ?? "Connecting…",
    detail,
  }),
  warming_up: ({ progress, stage }) => ({
    pill: "Warming up",
    curtain: true,
    busy: true,
    title: "Warming up",
    detail: stage,
    progress,
  }),
  queued: ({ position, depth, eta_s: etaS }) => ({
    pill: "In the queue",
    curtain: true,
    busy: true,
    title: `Place ${position} of ${depth} in the queue`,
    detail: typeof etaS === "number" ? `Your turn comes in about ${durationWords(etaS)}.` : "",
  }),
  busy: ({ message, remainingMs }) => ({
    pill: "Waiting",
    curtain: true,
    busy: true,
    title: message,
    detail: `Trying again in ${seconds(remainingMs)} s`,
    action: RETRY,
  }),
  playing: () => ({ pill: "Live" }),
  paused: () => ({ pill: "Paused" }),
  rebuffering: () => ({ pill: "Buffering" }),
  ended: ({ reason, watching }) => ({
    pill: "Ended",
    curtain: true,
    title: watching ? "The stream is over" : "The end",
    detail: (watching ? WATCHED_END_REASONS : OWN_END_REASONS)[reason] ?? "",
    action: watching ? undefined : AGAIN,
  }),
  connection_lost: ({ message, remainingMs }) => ({
    pill: "Connection lost",
    curtain: true,
    busy: true,
    title: message,
    detail: remainingMs === undefined ? "" : `Trying again in ${seconds(remainingMs)} s`,
    action: remainingMs === undefined ? undefined : RETRY,
  }),
  error: ({ message, final }) => ({
    pill: "Error",
    curtain: true,
    title: "This did not work",
    detail: message,
    action: final ? undefined : ONCE_MORE,
  }),
};

/**
 * @param {string} state
 * @param {object} detail fields that came with it
 * @returns {Wording}
 */
export function wordingOf(state, detail) {
  return wordings[state](detail);
}

/** Whether a session exists, or is being made, in this state. */
export function isLive(state) {
  return !["idle", "ended", "error"].includes(state);
}

/** Whether pictures can be paused and steered in this state. */
export function isShowing(state) {
  return ["playing", "paused", "rebuffering"].includes(state);
}

/** Whether another prompt has something to act on; what is changed while the connection is lost is sent later. */
export function isSteerable(state) {
  return isShowing(state) || state === "connection_lost";
}
