/** How fast a stream arrives: what a viewer, who gets no statistics of the server, knows about its speed. */

const WINDOW_MS = 6000;
const LEAST_MS = 2500;
// A longer silence is a pause of the owner's and says nothing about speed.
const SILENCE_MS = 2500;

export class ArrivalRate {
  constructor() {
    this.arrivals = [];
  }

  /** A frame came. @param {number} ptsUs @param {number} nowMs */
  add(ptsUs, nowMs) {
    const last = this.arrivals.at(-1);
    if (last !== undefined && (nowMs - last.nowMs > SILENCE_MS || ptsUs < last.ptsUs)) {
      this.arrivals = [];
    }
    this.arrivals.push({ ptsUs, nowMs });
    while (nowMs - this.arrivals[0].nowMs > WINDOW_MS) {
      this.arrivals.shift();
    }
  }

  /** Media seconds that come in a second, or null while too little is known. */
  get value() {
    const first = this.arrivals[0];
    const last = this.arrivals.at(-1);
    if (first === undefined || last.nowMs - first.nowMs < LEAST_MS) {
      return null;
    }
    return (last.ptsUs - first.ptsUs) / 1000 / (last.nowMs - first.nowMs);
  }
}
