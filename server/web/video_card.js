/** One video of the list: its picture or its progress, what it shows, and what can be done with it. */

import { makePlayer, save } from "./part_player.js";

const SURE_FOR_MS = 4000;

/**
 * @typedef {object} CardContent
 * @property {string} title what the video shows
 * @property {string} make how it was made
 * @property {string} status in words
 * @property {"waiting" | "working" | "ready" | "broken"} look
 * @property {number | null} progress 0 to 100, null where there is none to show
 * @property {string[]} addresses of the files, in the order in which they play
 * @property {(address: string) => Promise<string>} open what the browser can load now, for one of the addresses
 * @property {{label: string, run: () => void, sure?: boolean}[]} actions `sure`: only a second press does it
 */

export class VideoCard {
  constructor() {
    this.element = make("li", "video-card");
    this.frame = make("div", "video-frame");
    this.title = make("h3", "video-title");
    this.how = make("p", "video-make");
    this.status = make("p", "video-status");
    this.buttons = make("div", "video-actions");
    const body = make("div", "video-body");
    body.append(this.title, this.status, this.how, this.buttons);
    this.element.append(this.frame, body);
    this.drawn = {};
  }

  /** @param {CardContent} content */
  show(content) {
    this.title.textContent = content.title;
    this.how.textContent = content.make;
    this.status.textContent = content.status;
    this.element.dataset.look = content.look;
    if (this.#isNew("frame", [content.addresses, content.look, content.progress === null])) {
      this.#drawFrame(content);
    }
    const bar = this.frame.querySelector("progress");
    if (bar !== null) {
      bar.value = content.progress;
    }
    if (this.#isNew("buttons", [content.addresses, content.actions.map(({ label }) => label)])) {
      this.#drawButtons(content);
    }
  }

  /** Whether something differs from what was drawn, so that a player or a focused button is left alone if not. */
  #isNew(part, value) {
    const text = JSON.stringify(value);
    const isNew = this.drawn[part] !== text;
    this.drawn[part] = text;
    return isNew;
  }

  #drawFrame({ title, addresses, open, progress }) {
    if (addresses.length > 0) {
      const onBroken = (message) => this.#break(message);
      this.frame.replaceChildren(makePlayer({ title, addresses, open, onBroken }));
    } else if (progress !== null) {
      const bar = make("progress", "");
      bar.max = 100;
      bar.setAttribute("aria-label", `Progress of ${title}`);
      this.frame.replaceChildren(make("span", "video-glow"), bar);
    } else {
      this.frame.replaceChildren(make("span", "video-blank"));
    }
  }

  #break(message) {
    this.status.textContent = message;
    this.element.dataset.look = "broken";
  }

  #drawButtons({ title, addresses, open, actions }) {
    const downloads = addresses.map((address, part) => {
      const link = make("a", "button small");
      link.href = address;
      link.download = "";
      link.textContent = addresses.length > 1 ? `Download part ${part + 1}` : "Download";
      link.setAttribute("aria-label", `${link.textContent}: ${title}`);
      link.addEventListener("click", (event) => {
        event.preventDefault();
        open(address).then(save, (error) => this.#break(error.message));
      });
      return link;
    });
    this.buttons.replaceChildren(...downloads, ...actions.map((action) => actionButton(action, title)));
  }
}

function actionButton({ label, run, sure = false }, title) {
  const button = make("button", "button small quiet");
  button.type = "button";
  const name = (text) => {
    button.textContent = text;
    button.setAttribute("aria-label", `${text}: ${title}`);
  };
  name(label);
  let asked = false;
  button.addEventListener("click", () => {
    if (sure && !asked) {
      asked = true;
      name(`${label} for good?`);
      setTimeout(() => {
        asked = false;
        name(label);
      }, SURE_FOR_MS);
      return;
    }
    run();
  });
  return button;
}

function make(tag, className) {
  const element = document.createElement(tag);
  element.className = className;
  return element;
}
