/** When to try again: soon at first, then less often, and not for ever. */

const DELAYS_MS = [500, 1000, 2000, 4000, 8000];
// A server keeps a session for its owner for 60 s after the connection is lost.
const GIVE_UP_AFTER_MS = 60_000;
const TICK_MS = 250;

export class RetrySchedule {
  constructor() {
    this.attempt = 0;
    this.firstFailureMs = null;
    this.pending = null;
  }

  /**
   * Wait for the next attempt.
   * @param {object} options
   * @param {number} [options.afterMs] what the server asked for, instead of our own delay
   * @param {(remainingMs: number) => void} options.onTick
   * @param {() => void} options.onDue
   * @returns {boolean} false when it is time to give up
   */
  next({ afterMs, onTick, onDue }) {
    const nowMs = performance.now();
    this.firstFailureMs ??= nowMs;
    if (afterMs === undefined && nowMs - this.firstFailureMs > GIVE_UP_AFTER_MS) {
      return false;
    }
    const delayMs = afterMs ?? DELAYS_MS[Math.min(this.attempt, DELAYS_MS.length - 1)];
    this.attempt += 1;
    this.cancel();
    const dueMs = nowMs + delayMs;
    const timer = setInterval(() => {
      const remainingMs = dueMs - performance.now();
      if (remainingMs <= 0) {
        this.skip();
      } else {
        onTick(remainingMs);
      }
    }, TICK_MS);
    this.pending = { timer, onDue };
    onTick(delayMs);
    return true;
  }

  /** Try at once. */
  skip() {
    const pending = this.pending;
    this.cancel();
    pending?.onDue();
  }

  /** Don't try again. */
  cancel() {
    clearInterval(this.pending?.timer);
    this.pending = null;
  }

  /** The connection stands: the next loss starts from a short delay again. */
  succeeded() {
    this.attempt = 0;
    this.firstFailureMs = null;
  }
}
