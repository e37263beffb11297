/** Follows a changed prompt from the request to the first picture that shows it. */

export class PromptTracker {
  constructor() {
    this.asked = new Map();
    this.applied = [];
  }

  /** The viewer asked for it. @param {string} eventId @param {string} prompt */
  ask(eventId, prompt) {
    this.asked.set(eventId, { prompt, askedMs: performance.now() });
  }

  /** The server refused it. @param {string | undefined} eventId */
  refuse(eventId) {
    this.asked.delete(eventId);
  }

  /** The server said from which frame on it shows. @param {{event_id: string, first_pts_us: number}} event */
  apply(event) {
    this.applied.push(event);
  }

  /**
   * A frame is on the screen.
   * @param {number} ptsUs
   * @returns {{eventId: string, firstPtsUs: number, prompt: string | null, latencyMs: number | null}[]}
   *     prompts that can be seen since this frame
   */
  shown(ptsUs) {
    const visible = [];
    while (this.applied.length > 0 && this.applied[0].first_pts_us <= ptsUs) {
      const { event_id: eventId, first_pts_us: firstPtsUs } = this.applied.shift();
      const asked = this.asked.get(eventId);
      this.asked.delete(eventId);
      visible.push({
        eventId,
        firstPtsUs,
        prompt: asked?.prompt ?? null,
        latencyMs: asked === undefined ? null : performance.now() - asked.askedMs,
      });
    }
    return visible;
  }
}
