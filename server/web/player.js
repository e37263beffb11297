/**
 * One player for the page, whichever way this browser can play: WebCodecs in a worker with an
 * OffscreenCanvas, or Media Source Extensions in a `<video>`.
 */

import { MseSink, supportsMse } from "./mse_sink.js";
import { StreamClient } from "./stream_client.js";

// H.264 High at level 5.1: enough for 2560x1440 at 30 frames a second.
const H264 = "avc1.640033";
const CODECS = [H264];

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
 * @param {(event: object) => void} options.onEvent
 * @returns {{start, steer, resize, setPaused, stop, retryNow}} commands of `StreamClient`
 */
export function createPlayer(kind, { canvas, video, origin, onEvent }) {
  canvas.hidden = kind !== "webcodecs";
  video.hidden = kind !== "mse";
  return kind === "webcodecs"
    ? createWorkerPlayer({ canvas, origin, onEvent })
    : createPagePlayer({ video, origin, onEvent });
}

function createWorkerPlayer({ canvas, origin, onEvent }) {
  const worker = new Worker(new URL("./player_worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => onEvent(data);
  worker.onerror = (event) =>
    onEvent({ type: "state", state: "error", code: "player", message: `The player failed: ${event.message}` });
  const post = (command, fields = {}, transfer = []) => worker.postMessage({ command, ...fields }, transfer);
  const offscreen = canvas.transferControlToOffscreen();
  post("open", { canvas: offscreen, origin, transport: "webcodecs", codecs: CODECS }, [offscreen]);
  return {
    start: (request) => post("start", { request }),
    steer: (change) => post("steer", change),
    resize: (change) => post("resize", change),
    setPaused: (change) => post("setPaused", change),
    stop: () => post("stop"),
    retryNow: () => post("retryNow"),
  };
}

function createPagePlayer({ video, origin, onEvent }) {
  const listener = {};
  const client = new StreamClient({
    origin,
    sink: new MseSink(video, listener),
    transport: "fmp4",
    codecs: CODECS,
    emit: onEvent,
  });
  for (const name of ["frameShown", "running", "ranDry", "playedOut", "requestKeyframe", "failed"]) {
    listener[name] = client[name].bind(client);
  }
  return client;
}
