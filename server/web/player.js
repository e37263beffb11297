/**
 * One player for the page, whichever way this browser can play: WebCodecs in a worker with an
 * OffscreenCanvas, or Media Source Extensions in a `<video>`.
 */

import { MseSink, supportsMse } from "./mse_sink.js";
import { H264, createClient } from "./player_client.js";

/** What this browser can play with: "webcodecs", "mse" or null. */
export async function choosePlayer(wanted) {
  if (wanted !== "mse" && (await supportsWebCodecs())) {
    return "webcodecs";
  }
  return supportsMse() ? "mse" : null;
}

async function supportsWebCodecs() {
  const present =
    "VideoDecoder" in window &&
    "OffscreenCanvas" in window &&
    "transferControlToOffscreen" in HTMLCanvasElement.prototype;
  if (!present) {
    return false;
  }
  const { supported } = await VideoDecoder.isConfigSupported({ codec: H264, optimizeForLatency: true });
  return supported;
}

/**
 * @param {"webcodecs" | "mse"} kind
 * @param {object} options
 * @param {HTMLCanvasElement} options.canvas
 * @param {HTMLVideoElement} options.video
 * @param {string} options.origin
 * @param {boolean} options.watching whether somebody else's session is watched
 * @param {(event: object) => void} options.onEvent
 * @returns {{start, steer, resize, setPaused, stop, retryNow}} commands of `StreamClient`, or those of `WatchClient`
 */
export function createPlayer(kind, { canvas, video, ...options }) {
  canvas.hidden = kind !== "webcodecs";
  video.hidden = kind !== "mse";
  return kind === "webcodecs" ? createWorkerPlayer({ canvas, ...options }) : createPagePlayer({ video, ...options });
}

function createWorkerPlayer({ canvas, origin, watching, onEvent }) {
  const worker = new Worker(new URL("./player_worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => onEvent(data);
  worker.onerror = (event) =>
    onEvent({ type: "state", state: "error", code: "player", message: `The player failed: ${event.message}` });
  const post = (command, fields = {}, transfer = []) => worker.postMessage({ command, ...fields }, transfer);
  const offscreen = canvas.transferControlToOffscreen();
  post("open", { canvas: offscreen, origin, watching }, [offscreen]);
  return {
    start: (request) => post("start", { request }),
    steer: (change) => post("steer", change),
    resize: (change) => post("resize", change),
    setPaused: (change) => post("setPaused", change),
    stop: () => post("stop"),
    retryNow: () => post("retryNow"),
  };
}

function createPagePlayer({ video, origin, watching, onEvent }) {
  const makeSink = (listener) => new MseSink(video, listener);
  return createClient(makeSink, { origin, watching, transport: "fmp4", emit: onEvent });
}
