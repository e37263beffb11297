/**
 * Chooses the playback speed from what arrives and what is buffered.
 *
 * A machine that makes 8 frames a second of a 16 fps stream can either freeze after each group of frames or
 * play at half speed. Half speed looks far better, so that is what happens; the page shows the speed.
 */

const SUPPLY_WINDOW_MS = 5000;
const SUPPLY_MINIMUM_MS = 2000;
const LOW_WATER_WINDOW_MS = 2000;
const LOW_WATER_TARGET_MS = 200;
const LOW_WATER_PLENTY_MS = 400;
const GAIN_PER_MS = 1 / 2500;
const SMOOTHING_MS = 1200;
const ADJUST_EVERY_MS = 100;

export class SpeedControl {
  /** @param {{minSpeed?: number}} [options] slowest speed allowed, 1 being real time */
  constructor({ minSpeed = 0.25 } = {}) {
    this.minSpeed = minSpeed;
    this.reset();
  }

  /** Forget what arrived so far: after a pause or a jump in time it says nothing any more. */
  reset() {
    this.speed = 1;
    this.arrivals = [];
    this.lows = [];
    this.adjustedMs = null;
  }

  /**
   * Note that media up to `endUs` is here.
   * @param {number} endUs
   * @param {number} nowMs
   */
  arrived(endUs, nowMs) {
    this.arrivals.push({ endUs, nowMs });
    while (this.arrivals.length > 2 && nowMs - this.arrivals[1].nowMs > SUPPLY_WINDOW_MS) {
      this.arrivals.shift();
    }
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
    const wanted = Math.min(1, Math.max(this.minSpeed, this.#wantedSpeed(nowMs)));
    this.speed += (wanted - this.speed) * (1 - Math.exp(-elapsedMs / SMOOTHING_MS));
    return this.speed;
  }

  /** Media seconds that arrive per second, or 1 while too little is known. */
  supply(nowMs) {
    const first = this.arrivals[0];
    if (first === undefined || nowMs - first.nowMs < SUPPLY_MINIMUM_MS) {
      return 1;
    }
    const last = this.arrivals[this.arrivals.length - 1];
    return (last.endUs - first.endUs) / 1000 / (nowMs - first.nowMs);
  }

  #wantedSpeed(nowMs) {
    const lowWaterMs = Math.min(...this.lows.map((sample) => sample.bufferedMs));
    // Arrivals follow our own acknowledgements once the server waits for us, so a slow player would stay
    // slow for ever: a buffer that never gets low is the proof that the supply is larger than it looks.
    if (lowWaterMs > LOW_WATER_PLENTY_MS) {
      return 1;
    }
    return this.supply(nowMs) + (lowWaterMs - LOW_WATER_TARGET_MS) * GAIN_PER_MS;
  }
}
