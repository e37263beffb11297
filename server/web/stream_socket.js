/** The WebSocket of a session: events as JSON text, media as binary, and what a close means. */

import { parseMediaFrame } from "./media_frame.js";

const CLOSE_NORMAL = 1000;
const CLOSE_REFUSED = 1008;
const CLOSE_FAULT = 1011;
const CLOSE_BUSY = 1013;
// Time for the server to say `session.done` after `session.stop`, and more of it where a recording is finished first.
const FAREWELL_MS = 1000;
const RECORDING_FAREWELL_MS = 30_000;

export class StreamSocket {
  /**
   * @param {string} origin http(s) origin of the server
   * @param {string} path of the WebSocket, query included
   * @param {object} listener
   * @param {() => void} listener.opened
   * @param {(event: object) => void} listener.told an event came
   * @param {(frame: import("./media_frame.js").MediaFrame, bytes: number) => void} listener.sent a media frame came
   * @param {(end: End) => void} listener.ended
   */
  constructor(origin, path, listener) {
    this.socket = new WebSocket(origin.replace(/^http/, "ws") + path);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = listener.opened;
    this.socket.onclose = (event) => listener.ended(meaningOf(event));
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        listener.told(JSON.parse(data));
      } else {
        listener.sent(parseMediaFrame(data), data.byteLength);
      }
    };
  }

  /** @param {object} event @returns {boolean} false, and nothing is sent, while there is no connection */
  send(event) {
    if (this.socket.readyState !== WebSocket.OPEN) {
      return false;
    }
    this.socket.send(JSON.stringify(event));
    return true;
  }

  /**
   * Part from the server.
   * @param {(event: object) => void} told hears its last words
   * @param {{recorded?: boolean}} [session] whether a recording has to be finished
   */
  leave(told, { recorded = false } = {}) {
    this.socket.onopen = null;
    this.socket.onclose = null;
    this.socket.onmessage = ({ data }) => typeof data === "string" && told(JSON.parse(data));
    setTimeout(() => this.socket.close(CLOSE_NORMAL), recorded ? RECORDING_FAREWELL_MS : FAREWELL_MS);
  }
}

/**
 * @typedef {object} End
 * @property {"over" | "refused" | "busy" | "fault" | "lost"} kind
 * @property {string} reason what the server said, if anything
 * @property {number} [afterMs] how long a busy server wants to be left alone
 */

/** @returns {End} */
function meaningOf({ code, reason }) {
  if (code === CLOSE_BUSY) {
    const seconds = Number.parseFloat(/[\d.]+/.exec(reason)?.[0] ?? "");
    return { kind: "busy", reason: "", afterMs: seconds > 0 ? seconds * 1000 : undefined };
  }
  const kinds = { [CLOSE_NORMAL]: "over", [CLOSE_REFUSED]: "refused", [CLOSE_FAULT]: "fault" };
  return { kind: kinds[code] ?? "lost", reason };
}
