/**
 * Chooses the playback speed from how fast the server works and how much is buffered.
 *
 * A machine that makes 8 frames a second of a 16 fps stream can either freeze after each group of frames or
 * play at half speed. Half speed looks far better, so that is what happens; the page shows the speed.
 */

const LOW_WATER_WINDOW_MS = 2000;
const LOW_WATER_TARGET_MS = 100;
const GAIN_PER_MS = 1 / 2500;
const SMOOTHING_MS = 1200;
const ADJUST_EVERY_MS = 100;
const STALL_FACTOR = 0.85;
const LEAST_TRUST = 0.4;
const TRUST_PER_MS = 0.01 / 1000;

export class SpeedControl {
  /** @param {{minSpeed?: number}} [options] slowest speed allowed, 1 being real time */
  constructor({ minSpeed = 0.25 } = {}) {
    this.minSpeed = minSpeed;
    this.reset();
  }

  /** A new session: nothing is known about the server. */
  reset() {
    this.speed = 1;
    this.capability = 1;
    this.trust = 1;
    this.forgetBuffer();
  }

  /** After a pause or a jump in time, what was buffered before says nothing. */
  forgetBuffer() {
    this.lows = [];
    this.adjustedMs = null;
  }

  /** @param {number} capability media seconds that the server makes in a second of work */
  setCapability(capability) {
    this.capability = capability;
  }

  /** Playback ran dry: other sessions, or the network, leave us less than the server's speed promises. */
  stalled() {
    this.trust = Math.max(LEAST_TRUST, this.trust * STALL_FACTOR);
    this.speed *= STALL_FACTOR;
    this.forgetBuffer();
  }

  /**
   * @param {number} bufferedMs media held after the playhead
   * @param {number} nowMs
   * @returns {number} speed to play at
   */
  adjust(bufferedMs, nowMs) {
    this.lows.push({ bufferedMs, nowMs });
    while (nowMs - this.lows[0].nowMs > LOW_WATER_WINDOW_MS) {
      this.lows.shift();
    }
    const elapsedMs = this.adjustedMs === null ? 0 : nowMs - this.adjustedMs;
    if (this.adjustedMs !== null && elapsedMs < ADJUST_EVERY_MS) {
      return this.speed;
    }
    this.adjustedMs = nowMs;
    this.trust = Math.min(1, this.trust + TRUST_PER_MS * elapsedMs);
    const lowWaterMs = Math.min(...this.lows.map((sample) => sample.bufferedMs));
    const wanted = this.capability * this.trust + (lowWaterMs - LOW_WATER_TARGET_MS) * GAIN_PER_MS;
    const allowed = Math.min(1, Math.max(this.minSpeed, wanted));
    this.speed += (allowed - this.speed) * (1 - Math.exp(-elapsedMs / SMOOTHING_MS));
    return this.speed;
  }
}
