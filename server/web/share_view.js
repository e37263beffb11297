/** The dialog with the link that lets others watch. */

import { makeWatchLink } from "./watch_link.js";

const byId = (id) => document.getElementById(id);

export class ShareView {
  constructor() {
    this.dialog = byId("share-dialog");
    this.button = byId("share");
    this.field = byId("share-link");
    this.button.addEventListener("click", () => this.#open());
    byId("share-copy").addEventListener("click", () => this.#copy());
    byId("share-close").addEventListener("click", () => this.dialog.close());
  }

  /** @param {{sessionId: string, token: string} | null} target the session that can be watched, if there is one */
  offer(target) {
    this.button.disabled = target === null;
    this.field.value = target === null ? "" : makeWatchLink(location.origin, target);
    if (target === null && this.dialog.open) {
      this.dialog.close();
    }
  }

  #open() {
    byId("share-said").textContent = "";
    this.dialog.showModal();
    this.field.select();
  }

  /** Pages without TLS may not write to the clipboard: there the link is left selected, to be copied by hand. */
  async #copy() {
    this.field.select();
    try {
      await navigator.clipboard.writeText(this.field.value);
      byId("share-said").textContent = "Copied.";
    } catch {
      byId("share-said").textContent = "This browser does not let the page copy: press Ctrl+C or hold the link.";
    }
  }
}
