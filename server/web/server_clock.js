/** The server's wall clock as seen from here, from pings: the one with the shortest way counts. */

export class ServerClock {
  constructor() {
    this.bestMs = Infinity;
    this.offsetMs = 0;
  }

  /** Time to send along with a ping, in ms. */
  stamp() {
    return Date.now();
  }

  /** @param {{t?: number, server_ms: number}} pong */
  answer({ t, server_ms: serverMs }) {
    if (t === undefined) {
      return;
    }
    const nowMs = Date.now();
    if (nowMs - t < this.bestMs) {
      this.bestMs = nowMs - t;
      this.offsetMs = serverMs - (nowMs + t) / 2;
    }
  }

  /** Milliseconds since `serverMs`, a time of the server's clock. */
  since(serverMs) {
    return Date.now() + this.offsetMs - serverMs;
  }
}
