/** What screen readers read out. What happens within a moment is read as one. */

const READ_AFTER_MS = 700;

export class Announcer {
  /** @param {HTMLElement} region an element with `aria-live` */
  constructor(region) {
    this.region = region;
    this.waiting = [];
    this.timer = 0;
  }

  /** @param {string} text */
  say(text) {
    this.waiting.push(text);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.region.textContent = this.waiting.join(" ");
      this.waiting = [];
    }, READ_AFTER_MS);
  }
}
