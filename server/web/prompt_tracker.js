/** Follows a prompt from the request to the first picture that shows it. */

/**
 * @typedef {object} ShownPrompt
 * @property {string | null} eventId of the change, null for the prompt that the session began with
 * @property {number} firstPtsUs time of its first frame
 * @property {string | null} prompt null when the change was somebody else's
 * @property {number | null} latencyMs from the request to the picture
 */

export class PromptTracker {
  constructor() {
    this.asked = new Map();
    this.applied = [];
  }

  /** The session begins with it. @param {string} prompt */
  begin(prompt) {
    this.ask(null, prompt);
    this.apply({ event_id: null, first_pts_us: 0 });
  }

  /** The viewer asked for a change. @param {string | null} eventId @param {string} prompt */
  ask(eventId, prompt) {
    this.asked.set(eventId, { prompt, askedMs: performance.now() });
  }

  /** The server refused it. @param {string | undefined} eventId */
  refuse(eventId) {
    this.asked.delete(eventId);
  }

  /** The server said from which frame on it shows. @param {{event_id: string | null, first_pts_us: number}} event */
  apply(event) {
    this.applied.push(event);
  }

  /**
   * A frame is on the screen.
   * @param {number} ptsUs
   * @returns {ShownPrompt[]} prompts that can be seen since this frame
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
