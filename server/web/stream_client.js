/**
 * One session over the WebSocket `/v1/stream`: starts it, steers it, acknowledges what was shown, and finds
 * its way back after a lost connection. Knows nothing about decoding: a sink takes the media frames.
 *
 * Runs in a worker (WebCodecs) and on the page (Media Source Extensions) alike.
 *
 * @typedef {object} Sink
 * @property {(config: object) => void} configure a `stream.config`: the next generation of media
 * @property {(frame: import("./media_frame.js").MediaFrame) => void} push
 * @property {(fps: number) => void} setGeneratedFps what the server makes per second of work
 * @property {(paused: boolean) => void} setPaused
 * @property {() => void} finish no more media will come
 * @property {() => void} reset forget the session
 * @property {() => SinkReport} report
 *
 * @typedef {object} SinkReport
 * @property {number} shown frames shown so far
 * @property {number} dropped frames that were received and never shown
 * @property {number} seq sequence number of the newest frame shown, -1 before the first
 * @property {number} ptsUs its presentation time
 * @property {number} bufferedMs media held after it
 * @property {number} speed playback speed, 1 being real time
 */

import { PromptTracker } from "./prompt_tracker.js";
import { waitUntilReady } from "./readiness.js";
import { RetrySchedule } from "./retry_schedule.js";
import { ServerClock } from "./server_clock.js";
import { StreamSocket } from "./stream_socket.js";

const ACK_EVERY_FRAMES = 1;
const KEEPALIVE_MS = 4000;
const REPORT_EVERY_MS = 200;

export class StreamClient {
  /**
   * @param {object} options
   * @param {string} options.origin http(s) origin of the server
   * @param {Sink} options.sink
   * @param {string} options.transport "webcodecs" or "fmp4"
   * @param {string[]} options.codecs codecs that this browser decodes
   * @param {(event: object) => void} options.emit receives every event for the page
   */
  constructor({ origin, sink, transport, codecs, emit }) {
    this.origin = origin;
    this.sink = sink;
    this.transport = transport;
    this.codecs = codecs;
    this.emit = emit;
    this.socket = null;
    this.state = "idle";
    this.run = 0;
    this.#forgetSession();
    setInterval(() => this.#report(), REPORT_EVERY_MS);
    setInterval(() => this.#keepAlive(), KEEPALIVE_MS);
  }

  /** Start a new session. @param {object} request fields of `session.start`, and the `key` of a server that wants one */
  async start({ key = null, ...request }) {
    this.#leave();
    this.#forgetSession();
    this.sink.reset();
    this.request = request;
    this.key = key;
    this.run += 1;
    await this.#connect(this.run);
  }

  /** Ask for another prompt. @param {{prompt: string, eventId: string}} change */
  steer({ prompt, eventId }) {
    if (this.request !== null) {
      this.request = { ...this.request, prompt };
    }
    this.prompts.ask(eventId, prompt);
    // A fade, since a cut of a small model jumps.
    this.#change({ type: "prompt.update", event_id: eventId, prompt, transition: "fade" });
  }

  /** Ask for another size. @param {{size: string, eventId: string}} change */
  resize({ size, eventId }) {
    if (this.request !== null) {
      this.request = { ...this.request, size };
    }
    this.#change({ type: "session.control", event_id: eventId, size });
  }

  /** Hold or go on, here at once and on the server. @param {{paused: boolean, eventId: string}} change */
  setPaused({ paused, eventId }) {
    if (!["playing", "rebuffering", "paused"].includes(this.state)) {
      return;
    }
    this.paused = paused;
    this.sink.setPaused(paused);
    this.flowing = false;
    this.#change({ type: "session.control", event_id: eventId, paused });
    this.#setState(paused ? "paused" : "rebuffering");
  }

  /** End the session. */
  stop() {
    this.#leave();
    this.sink.reset();
    this.#setState("ended", { reason: "stopped" });
  }

  /** Skip what is left of the wait for the next attempt. */
  retryNow() {
    this.retry.skip();
  }

  /** From the sink: a frame is on the screen. @param {{seq: number, ptsUs: number, captureMs: number}} frame */
  frameShown({ seq, ptsUs, captureMs }) {
    this.lastShown = { seq, ptsUs };
    this.latencyMs = this.serverClock.since(captureMs);
    this.shownSinceAck += 1;
    if (this.state === "connecting") {
      this.#setState("playing");
    }
    if (this.shownSinceAck >= ACK_EVERY_FRAMES) {
      this.#acknowledge();
    }
    for (const prompt of this.prompts.shown(ptsUs)) {
      this.emit({ type: "prompt_shown", ...prompt });
    }
  }

  /** From the sink: playback goes on. */
  running() {
    this.flowing = true;
    if (this.state === "rebuffering") {
      this.#setState("playing");
    }
  }

  /** From the sink: it ran out of media. */
  ranDry() {
    this.flowing = false;
    if (this.state === "playing") {
      this.#setState("rebuffering");
    }
  }

  /** From the sink: the last frame of a finished session was shown. */
  playedOut() {
    this.#acknowledge();
    this.#leave();
    this.#setState("ended", this.done ?? { reason: "finished" });
  }

  /** From the sink: it needs a frame at which a decoder can start. */
  requestKeyframe() {
    this.#send({ type: "keyframe.request" });
  }

  /** From the sink: it cannot go on. @param {string} message */
  failed(message) {
    this.#leave();
    this.#setState("error", { code: "player", message, retryable: true });
  }

  async #connect(run) {
    const resuming = this.sessionId !== null;
    this.#setState(resuming ? "connection_lost" : "connecting", { message: "Connecting…" });
    const ready = await waitUntilReady(this.origin, {
      cancelled: () => this.run !== run,
      onProgress: (progress) => this.#setState("warming_up", progress),
    });
    if (this.run !== run) {
      return;
    }
    if (!ready) {
      this.#lost({ message: "The server cannot be reached." });
      return;
    }
    if (this.state === "warming_up") {
      this.#setState(resuming ? "connection_lost" : "connecting", { message: "Connecting…" });
    }
    this.#open();
  }

  #open() {
    this.socket = new StreamSocket(this.origin, "/v1/stream", {
      opened: () => this.#greet(),
      told: (event) => this.#hear(event),
      sent: (frame, bytes) => {
        this.receivedBytes += bytes;
        this.receivedPtsUs = frame.init ? this.receivedPtsUs : frame.ptsUs;
        this.sink.push(frame);
        // Until the buffer is full again nothing is shown, but the server has to know what has come.
        if (this.state === "rebuffering") {
          this.#acknowledge();
        }
      },
      ended: (end) => {
        this.socket = null;
        this.#ended(end);
      },
    });
  }

  #greet() {
    if (this.key !== null) {
      this.#send({ type: "session.authenticate", key: this.key });
    }
    if (this.sessionId !== null) {
      this.#send({
        type: "session.resume",
        session_id: this.sessionId,
        resume_token: this.resumeToken,
        ...(this.receivedPtsUs === null ? {} : { last_pts_us: this.receivedPtsUs }),
      });
      return;
    }
    this.prompts = new PromptTracker();
    this.prompts.begin(this.request.prompt);
    this.#send({ type: "session.start", transport: this.transport, codecs: this.codecs, ...this.request });
  }

  #hear(event) {
    const handlers = {
      "queue.status": () => this.#setState("queued", event),
      "session.started": () => this.#started(event),
      "session.resumed": () => this.#resumed(event),
      "stream.config": () => this.sink.configure(event),
      "session.pong": () => this.serverClock.answer(event),
      stats: () => this.#adapt(event),
      "prompt.applied": () => this.prompts.apply(event),
      "session.done": () => this.#finished(event),
      error: () => this.#refused(event),
    };
    handlers[event.type]?.();
    this.#tell(event);
  }

  #started(event) {
    this.sessionId = event.session_id;
    this.resumeToken = event.resume_token;
    this.request = { ...this.request, seed: event.seed };
    this.retry.succeeded();
    this.#ping();
    this.#setState("connecting", { message: "Making the first frames…" });
  }

  /** Before the first group nothing is known, and the sink has no rate to compare with. */
  #adapt({ generated_fps: fps }) {
    if (fps > 0 && this.lastShown.seq >= 0) {
      this.sink.setGeneratedFps(fps);
    }
  }

  #resumed() {
    this.retry.succeeded();
    this.#ping();
    if (this.state === "connection_lost") {
      const onGoing = this.flowing ? "playing" : "rebuffering";
      this.#setState(this.paused ? "paused" : onGoing);
    }
    for (const change of this.unsent.splice(0)) {
      this.#send(change);
    }
  }

  #finished(event) {
    this.done = event;
    this.sink.finish();
  }

  /** A refusal leaves a running session as it is; before that it means that none will start. */
  #refused(event) {
    this.trouble = event.message;
    this.prompts.refuse(event.event_id);
    if (event.code === "unknown_session" || event.code === "bad_token") {
      this.#startAgain();
    } else if (this.sessionId === null && !event.retryable) {
      this.#leave();
      this.#setState("error", event);
    }
  }

  /** The server no longer has the session: the same request makes the same kind of picture again. */
  #startAgain() {
    this.sessionId = null;
    this.paused = false;
    this.lastShown = { seq: -1, ptsUs: -1 };
    this.receivedPtsUs = null;
    this.unsent = [];
    this.flowing = false;
    this.sink.reset();
    this.#greet();
  }

  #ended({ kind, reason, afterMs }) {
    if (this.done !== null) {
      // However it closes, nothing is lost: what is still buffered is shown, and that is the end.
      return;
    }
    const endings = {
      over: () => this.#setState("ended", { reason: reason || "closed by the server" }),
      refused: () =>
        this.#setState("error", {
          code: "refused",
          message: reason || "The server refused the connection.",
          retryable: false,
        }),
      busy: () => this.#lost({ message: this.trouble ?? "The server is busy.", busy: true, afterMs }),
      fault: () => this.#lost({ message: this.trouble ?? "The engine failed." }),
      lost: () => this.#lost({ message: "The connection was lost." }),
    };
    endings[kind]();
  }

  #lost({ message, busy = false, afterMs }) {
    const run = this.run;
    const started = this.retry.next({
      afterMs,
      onTick: (remainingMs) => this.#setState(busy ? "busy" : "connection_lost", { message, remainingMs }),
      onDue: () => this.run === run && this.#connect(run),
    });
    if (!started) {
      this.#leave();
      this.#setState("error", { code: "connection_lost", message: `${message} Giving up.`, retryable: true });
    }
  }

  #acknowledge() {
    if (this.lastShown.seq < 0) {
      return;
    }
    const { bufferedMs, dropped } = this.sink.report();
    this.shownSinceAck = 0;
    this.#send({
      type: "playback.ack",
      seq: this.lastShown.seq,
      pts_us: this.lastShown.ptsUs,
      buffered_ms: Math.round(bufferedMs),
      dropped,
    });
  }

  #ping() {
    this.#send({ type: "session.ping", t: this.serverClock.stamp() });
  }

  #keepAlive() {
    if (this.state === "paused" || this.state === "rebuffering") {
      this.#acknowledge();
    }
    this.#ping();
  }

  #report() {
    if (this.socket === null && this.state !== "playing") {
      return;
    }
    this.emit({
      type: "report",
      ...this.sink.report(),
      latencyMs: this.latencyMs,
      receivedBytes: this.receivedBytes,
      nowMs: performance.now(),
    });
  }

  /** @returns {boolean} whether there is a connection to send over */
  #send(event) {
    return this.socket?.send(event) ?? false;
  }

  /** What the owner changes while the connection is lost waits until it is back. */
  #change(event) {
    if (!this.#send(event)) {
      this.unsent.push(event);
    }
  }

  /** Part from the session; what the server still says to that goes to the page. */
  #leave() {
    this.run += 1;
    this.retry?.cancel();
    if (this.socket === null) {
      return;
    }
    if (this.done === null) {
      this.#send({ type: "session.stop" });
    }
    this.socket.leave((event) => this.#tell(event), { recorded: this.request?.record === true });
    this.socket = null;
  }

  #tell(event) {
    this.emit({ ...event, type: "server", event: event.type });
  }

  #forgetSession() {
    this.request = null;
    this.key = null;
    this.sessionId = null;
    this.resumeToken = null;
    this.receivedPtsUs = null;
    this.unsent = [];
    this.flowing = false;
    this.done = null;
    this.paused = false;
    this.retry = new RetrySchedule();
    this.prompts = new PromptTracker();
    this.serverClock = new ServerClock();
    this.trouble = null;
    this.lastShown = { seq: -1, ptsUs: -1 };
    this.shownSinceAck = 0;
    this.receivedBytes = 0;
    this.latencyMs = null;
  }

  #setState(state, detail = {}) {
    this.state = state;
    this.emit({ ...detail, type: "state", state });
  }
}
