/**
 * Watches somebody else's session over the WebSocket `/v1/stream/{id}`: joins on a keyframe, shows what comes, and
 * joins anew after a lost connection. A viewer who pauses leaves and joins anew, so that nobody sends or holds what is
 * not looked at. Commands and listener are those of `StreamClient`, but nothing can be steered.
 */

import { ArrivalRate } from "./arrival_rate.js";
import { RetrySchedule } from "./retry_schedule.js";
import { ServerClock } from "./server_clock.js";
import { StreamSocket } from "./stream_socket.js";

const PING_MS = 4000;
const REPORT_EVERY_MS = 200;
const HOPELESS = ["unknown_session", "bad_token"];

export class WatchClient {
  /**
   * @param {object} options
   * @param {string} options.origin http(s) origin of the server
   * @param {import("./stream_client.js").Sink} options.sink
   * @param {string} options.transport "webcodecs" or "fmp4"
   * @param {(event: object) => void} options.emit receives every event for the page
   */
  constructor({ origin, sink, transport, emit }) {
    this.origin = origin;
    this.sink = sink;
    this.transport = transport;
    this.emit = emit;
    this.socket = null;
    this.state = "idle";
    this.retry = new RetrySchedule();
    this.#forget();
    setInterval(() => this.#report(), REPORT_EVERY_MS);
    setInterval(() => this.#ping(), PING_MS);
  }

  /** @param {{sessionId: string, token: string}} target whom to watch */
  start(target) {
    this.target = target;
    this.#leave();
    this.#join("connecting");
  }

  /** Hold the picture, or go on with what is shown now. @param {{paused: boolean}} change */
  setPaused({ paused }) {
    if (paused) {
      this.#leave();
      this.sink.setPaused(true);
      this.#setState("paused");
    } else {
      this.#join("rebuffering");
    }
  }

  /** Watch no longer. */
  stop() {
    this.#leave();
    this.sink.reset();
    this.#setState("ended", { reason: "left", watching: true });
  }

  /** Skip what is left of the wait for the next attempt. */
  retryNow() {
    this.retry.skip();
  }

  /** From the sink: a frame is on the screen. */
  frameShown({ captureMs }) {
    this.latencyMs = this.clock.since(captureMs);
    const joining = this.state === "connecting" || this.state === "connection_lost";
    if (joining && this.socket !== null) {
      this.#setState("playing");
    }
  }

  /** From the sink: playback goes on. */
  running() {
    if (this.state === "rebuffering") {
      this.#setState("playing");
    }
  }

  /** From the sink: it ran out of media. */
  ranDry() {
    if (this.state === "playing") {
      this.#setState("rebuffering");
    }
  }

  /** From the sink: the last frame of a finished session was shown. */
  playedOut() {
    this.#over(this.done);
  }

  /** From the sink: it needs a frame at which a decoder can start. */
  requestKeyframe() {
    this.socket?.send({ type: "keyframe.request" });
  }

  /** From the sink: it cannot go on. @param {string} message */
  failed(message) {
    this.#leave();
    this.#setState("error", { code: "player", message });
  }

  #join(state) {
    this.sink.reset();
    this.#forget();
    this.#setState(state, { message: "Joining the stream…" });
    const { sessionId, token } = this.target;
    const query = new URLSearchParams({ token, transport: this.transport });
    this.socket = new StreamSocket(this.origin, `/v1/stream/${encodeURIComponent(sessionId)}?${query}`, {
      opened: () => this.#ping(),
      told: (event) => this.#hear(event),
      sent: (frame, bytes) => this.#take(frame, bytes),
      ended: (end) => {
        this.socket = null;
        this.#ended(end);
      },
    });
  }

  #take(frame, bytes) {
    this.receivedBytes += bytes;
    if (!frame.init) {
      this.arrivals.add(frame.ptsUs, performance.now());
    }
    this.sink.push(frame);
  }

  #hear(event) {
    const handlers = {
      "session.started": () => this.#joined(event),
      "stream.config": () => this.#configure(event),
      "session.pong": () => this.clock.answer(event),
      "session.done": () => this.#finish(event),
      error: () => this.#refused(event),
    };
    handlers[event.type]?.();
    this.emit({ ...event, type: "server", event: event.type });
  }

  #joined() {
    this.retry.succeeded();
    if (this.state === "connecting") {
      this.#setState("connecting", { message: "Waiting for the picture…", detail: "Its owner may have paused it." });
    }
  }

  #configure(config) {
    this.fps = config.fps;
    this.sink.configure(config);
  }

  #finish(event) {
    this.done = event;
    this.sink.finish();
  }

  #refused({ code, message }) {
    this.trouble = message;
    if (HOPELESS.includes(code)) {
      this.#leave();
      this.#setState("error", { code, message: "This stream is over, or the link to it is no longer good." });
    }
  }

  #ended({ kind, reason, afterMs }) {
    if (this.done !== null) {
      // However it closes, what is still buffered is shown first.
      return;
    }
    if (kind === "over") {
      this.#over(null);
    } else if (kind === "refused") {
      this.#setState("error", { code: "refused", message: this.trouble ?? (reason || "The server refused.") });
    } else {
      const message = kind === "busy" ? this.trouble ?? "All places are taken." : "The connection was lost.";
      this.#lost({ message, busy: kind === "busy", afterMs });
    }
  }

  #lost({ message, busy, afterMs }) {
    const started = this.retry.next({
      afterMs,
      onTick: (remainingMs) => this.#setState(busy ? "busy" : "connection_lost", { message, remainingMs }),
      onDue: () => this.#join(busy ? "connecting" : "connection_lost"),
    });
    if (!started) {
      this.#setState("error", { code: "connection_lost", message: `${message} Giving up.` });
    }
  }

  #over(done) {
    this.#leave();
    this.#setState("ended", { reason: done?.reason ?? "finished", watching: true });
  }

  #ping() {
    this.socket?.send({ type: "session.ping", t: this.clock.stamp() });
  }

  #report() {
    if (this.socket === null && this.state !== "playing") {
      return;
    }
    const rate = this.arrivals.value;
    if (rate !== null) {
      this.sink.setGeneratedFps(Math.min(1, rate) * this.fps);
    }
    const { latencyMs, receivedBytes } = this;
    this.emit({ type: "report", ...this.sink.report(), latencyMs, receivedBytes, nowMs: performance.now() });
  }

  #leave() {
    this.retry.cancel();
    this.socket?.send({ type: "session.stop" });
    this.socket?.leave(() => {});
    this.socket = null;
  }

  #forget() {
    this.arrivals = new ArrivalRate();
    this.clock = new ServerClock();
    this.done = null;
    this.trouble = null;
    this.fps = 0;
    this.latencyMs = null;
    this.receivedBytes = 0;
  }

  #setState(state, detail = {}) {
    this.state = state;
    this.emit({ ...detail, type: "state", state });
  }
}
