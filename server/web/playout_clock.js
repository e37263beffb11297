/**
 * Maps wall time to media time for a live stream: starts after a small buffer, follows the chosen speed,
 * and when media is late shifts instead of skipping, so that every frame is shown.
 */

import { SpeedControl } from "./speed_control.js";

/** Phases of the clock: nothing to play yet or again, playing, held by the viewer, everything played. */
export const WAITING = "waiting";
export const RUNNING = "running";
export const HELD = "held";
export const FINISHED = "finished";

export class PlayoutClock {
  /**
   * @param {object} [options]
   * @param {number} [options.startMs] media to hold before the first start
   * @param {number} [options.resumeMs] media to hold before going on after running dry
   */
  constructor({ startMs = 300, resumeMs = 450 } = {}) {
    this.startMs = startMs;
    this.resumeMs = resumeMs;
    this.control = new SpeedControl();
    this.reset();
  }

  /** Back to the state before the first frame. */
  reset() {
    this.phase = WAITING;
    this.started = false;
    this.anchorUs = null;
    this.anchorMs = 0;
    this.endUs = null;
    this.complete = false;
    this.control.reset();
  }

  get speed() {
    return this.control.speed;
  }

  /**
   * Note that a frame arrived.
   * @param {number} ptsUs
   * @param {number} durationUs
   */
  receive(ptsUs, durationUs) {
    if (this.anchorUs === null) {
      this.anchorUs = ptsUs;
    }
    this.endUs = ptsUs + durationUs;
  }

  /** @param {number} capability media seconds that the server makes in a second of work */
  setCapability(capability) {
    this.control.setCapability(capability);
  }

  /** No more frames will come: play what is there, without waiting for a fuller buffer. */
  finish() {
    this.complete = true;
  }

  /** Media time at `nowMs` in µs, or null before the first frame. */
  positionUs(nowMs) {
    if (this.phase !== RUNNING || this.anchorUs === null) {
      return this.anchorUs;
    }
    return this.anchorUs + (nowMs - this.anchorMs) * 1000 * this.control.speed;
  }

  /** Media held after the playhead, in ms. */
  bufferedMs(nowMs) {
    const positionUs = this.positionUs(nowMs);
    return positionUs === null || this.endUs === null ? 0 : Math.max(0, (this.endUs - positionUs) / 1000);
  }

  /**
   * Move on to `nowMs`: start, run dry or finish where that is due.
   * @returns {number | null} media time in µs
   */
  advance(nowMs) {
    if (this.phase === WAITING) {
      this.#startWhenFull(nowMs);
    }
    if (this.phase === RUNNING) {
      this.#followSpeed(nowMs);
      this.#stopWhenDry(nowMs);
    }
    return this.positionUs(nowMs);
  }

  /** Freeze for the viewer's pause. */
  hold(nowMs) {
    this.#moveAnchor(this.positionUs(nowMs), nowMs);
    this.phase = HELD;
  }

  /** End of the viewer's pause. */
  release() {
    this.phase = WAITING;
    this.control.forgetBuffer();
  }

  /** Continue at another media time, at once. */
  jump(ptsUs, nowMs) {
    this.#moveAnchor(ptsUs, nowMs);
    this.control.forgetBuffer();
  }

  #startWhenFull(nowMs) {
    const enoughMs = this.started ? this.resumeMs : this.startMs;
    const heldMs = this.bufferedMs(nowMs);
    if (heldMs >= enoughMs || (this.complete && heldMs > 0)) {
      this.anchorMs = nowMs;
      this.phase = RUNNING;
      this.started = true;
    } else if (this.complete) {
      this.phase = FINISHED;
    }
  }

  #followSpeed(nowMs) {
    const positionUs = this.positionUs(nowMs);
    this.#moveAnchor(positionUs, nowMs);
    this.control.adjust((this.endUs - positionUs) / 1000, nowMs);
  }

  #stopWhenDry(nowMs) {
    if (this.anchorUs < this.endUs) {
      return;
    }
    this.#moveAnchor(this.endUs, nowMs);
    this.phase = this.complete ? FINISHED : WAITING;
    if (!this.complete) {
      this.control.stalled();
    }
  }

  #moveAnchor(mediaUs, nowMs) {
    this.anchorUs = mediaUs;
    this.anchorMs = nowMs;
  }
}
