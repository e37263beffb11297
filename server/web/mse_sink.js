/**
 * Plays fragmented MP4 through Media Source Extensions in a `<video>`: for browsers without WebCodecs, and
 * for pages that are not served from a secure origin.
 */

import { SpeedControl } from "./speed_control.js";

const START_MS = 350;
const RESUME_MS = 500;
const KEEP_BEHIND_S = 8;
const TRIM_AT_S = 20;
const TICK_MS = 50;
const END_TOLERANCE_S = 0.08;

// The header of a media frame has 16 bits for the generation.
const GENERATION_MASK = 0xffff;

const MediaSourceClass = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

/** Whether this browser plays fragmented H.264 through Media Source Extensions. */
export function supportsMse() {
  return MediaSourceClass?.isTypeSupported('video/mp4; codecs="avc1.64001f"') ?? false;
}

export class MseSink {
  /**
   * @param {HTMLVideoElement} video
   * @param {object} listener receives frameShown, running, ranDry, playedOut and failed
   */
  constructor(video, listener) {
    this.video = video;
    this.listener = listener;
    this.control = new SpeedControl();
    this.url = null;
    this.reset();
    setInterval(() => this.#tick(), TICK_MS);
    this.#watchFrames();
  }

  reset() {
    this.#unload();
    this.control.reset();
    this.config = null;
    this.configs = new Map();
    this.pieces = [];
    this.frames = [];
    this.source = null;
    this.buffer = null;
    this.running = false;
    this.started = false;
    this.paused = false;
    this.complete = false;
    this.shown = 0;
    this.dropped = 0;
    this.newest = { seq: -1, ptsUs: -1 };
  }

  configure(config) {
    this.configs.set(config.generation & GENERATION_MASK, config);
    this.config = config;
    if (this.source === null) {
      this.#load(config);
    }
  }

  push(frame) {
    if (!frame.init) {
      this.frames.push(frame);
    }
    this.pieces.push(frame);
    this.#append();
  }

  setGeneratedFps(fps) {
    this.control.setCapability(fps / this.config.fps);
  }

  setPaused(paused) {
    this.paused = paused;
    this.control.forgetBuffer();
    if (paused) {
      this.#halt();
    }
  }

  finish() {
    this.complete = true;
    this.#append();
  }

  report() {
    return {
      shown: this.shown,
      dropped: this.dropped,
      seq: this.newest.seq,
      ptsUs: this.newest.ptsUs,
      bufferedMs: this.#bufferedS() * 1000,
      speed: this.control.speed,
    };
  }

  #load(config) {
    const source = new MediaSourceClass();
    this.source = source;
    this.video.disableRemotePlayback = true;
    this.url = URL.createObjectURL(source);
    this.video.src = this.url;
    source.addEventListener("sourceopen", () => {
      if (source !== this.source) {
        return;
      }
      this.buffer = source.addSourceBuffer(mimeType(config));
      this.buffer.addEventListener("updateend", () => this.#append());
      this.#append();
    });
  }

  #unload() {
    if (this.url !== null) {
      URL.revokeObjectURL(this.url);
      this.video.removeAttribute("src");
      this.video.load();
      this.url = null;
    }
  }

  #append() {
    const { buffer } = this;
    if (buffer === null || buffer.updating || this.source.readyState !== "open") {
      return;
    }
    if (this.pieces.length === 0) {
      if (this.complete) {
        // Else the browser waits for what might follow the last frames before it shows them.
        this.source.endOfStream();
      }
      return;
    }
    const oldest = buffer.buffered.length > 0 ? buffer.buffered.start(0) : this.video.currentTime;
    if (this.video.currentTime - oldest > TRIM_AT_S) {
      buffer.remove(0, this.video.currentTime - KEEP_BEHIND_S);
      return;
    }
    const piece = this.pieces.shift();
    if (piece.init) {
      buffer.changeType(mimeType(this.configs.get(piece.generation)));
    }
    buffer.appendBuffer(piece.payload);
  }

  #tick() {
    if (this.source === null && this.complete) {
      // It ended before its first frame.
      this.complete = false;
      this.listener.playedOut();
      return;
    }
    if (this.buffer === null || this.video.error !== null) {
      this.#checkError();
      return;
    }
    this.#enterBuffered();
    if (this.paused) {
      return;
    }
    if (this.running) {
      this.#keepRunning();
    } else {
      this.#startWhenFull();
    }
  }

  #checkError() {
    if (this.video.error !== null && this.source !== null) {
      this.source = null;
      this.buffer = null;
      this.listener.failed(`the browser cannot play this video: ${this.video.error.message}`);
    }
  }

  /** Before the first frame, and after a gap, the playhead stands outside of what is buffered. */
  #enterBuffered() {
    const { buffered } = this.video;
    if (buffered.length === 0) {
      return;
    }
    const lastStart = buffered.start(buffered.length - 1);
    if (this.video.currentTime < lastStart && this.#bufferedS() < END_TOLERANCE_S) {
      this.video.currentTime = lastStart;
    }
  }

  #startWhenFull() {
    const heldMs = this.#bufferedS() * 1000;
    if (this.complete && heldMs <= END_TOLERANCE_S * 1000 && this.pieces.length === 0) {
      this.complete = false;
      this.listener.playedOut();
      return;
    }
    if (heldMs >= (this.started ? RESUME_MS : START_MS) || (this.complete && heldMs > 0)) {
      this.running = true;
      this.started = true;
      this.video.play().then(
        () => this.listener.running(),
        (error) => error.name !== "AbortError" && this.listener.failed(error.message),
      );
    }
  }

  #keepRunning() {
    const heldMs = this.#bufferedS() * 1000;
    if (heldMs <= END_TOLERANCE_S * 1000) {
      this.#halt();
      if (!this.complete) {
        this.control.stalled();
        this.listener.ranDry();
      }
      return;
    }
    this.video.playbackRate = this.control.adjust(heldMs, performance.now());
  }

  #halt() {
    this.running = false;
    this.video.pause();
  }

  #bufferedS() {
    const { buffered, currentTime } = this.video;
    for (let index = 0; index < buffered.length; index += 1) {
      if (buffered.start(index) <= currentTime + END_TOLERANCE_S && currentTime < buffered.end(index)) {
        return buffered.end(index) - currentTime;
      }
    }
    return 0;
  }

  #watchFrames() {
    if (this.video.requestVideoFrameCallback === undefined) {
      this.video.addEventListener("timeupdate", () => this.#settle(this.video.currentTime));
      return;
    }
    const watch = (_, { mediaTime }) => {
      this.#settle(mediaTime);
      this.video.requestVideoFrameCallback(watch);
    };
    this.video.requestVideoFrameCallback(watch);
  }

  /** Report the newest frame up to `mediaTime`; those between it and the one before were skipped. */
  #settle(mediaTime) {
    const reachedUs = mediaTime * 1e6 + 1e3;
    let newest = null;
    while (this.frames.length > 0 && this.frames[0].ptsUs <= reachedUs) {
      this.dropped += newest === null ? 0 : 1;
      newest = this.frames.shift();
    }
    if (newest !== null) {
      this.shown += 1;
      this.newest = newest;
      this.listener.frameShown(newest);
    }
  }
}

function mimeType(config) {
  return `video/mp4; codecs="${config.codec}"`;
}
