/** The prompt box and what is around it: words, examples, size, seed, and the list of directions given. */

import { EXAMPLES, WORD_GROUPS, promptHas, steerPrompt } from "./prompt_words.js";
import { isLive } from "./states.js";

const LARGEST_DRAWN_SEED = 999_999;

const byId = (id) => document.getElementById(id);

/** A seed short enough to be read out and typed again. */
export function drawSeed() {
  return Math.floor(Math.random() * (LARGEST_DRAWN_SEED + 1));
}

export class ComposerView {
  /** @param {{submit, stop, resize}} commands called for what the viewer does */
  constructor(commands) {
    this.commands = commands;
    this.live = false;
    this.prompt = byId("prompt");
    this.size = byId("size");
    this.seed = byId("seed");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      commands.submit();
    });
    this.prompt.addEventListener("keydown", (event) => this.#submitOnEnter(event));
    this.prompt.addEventListener("input", () => this.#markWords());
    this.size.addEventListener("change", () => commands.resize());
    byId("stop").addEventListener("click", commands.stop);
    byId("dice").addEventListener("click", () => {
      this.seed.value = String(drawSeed());
    });
    this.record = byId("record");
    this.record.addEventListener("click", () => this.setRecord(!this.recorded));
    this.#makeExamples();
    this.#makeWords();
  }

  get text() {
    return this.prompt.value.trim();
  }

  /** @param {string} text */
  setText(text) {
    this.prompt.value = text;
    this.#markWords();
  }

  /** Seed for the next session, or undefined for a random one. */
  get chosenSeed() {
    return this.seed.value === "" ? undefined : Number(this.seed.value);
  }

  /** Whether the next session is to be recorded. */
  get recorded() {
    return this.record.getAttribute("aria-pressed") === "true";
  }

  /** @param {boolean} on */
  setRecord(on) {
    this.record.setAttribute("aria-pressed", String(on));
  }

  /** Show the seed in use; a box left empty stays empty, so that the next session draws another. */
  showSeed(seed) {
    this.seed.placeholder = String(seed);
  }

  /**
   * Offer the sizes that the server can make.
   * @param {{name: string, width: number, height: number}[]} sizes
   * @param {number} maxPromptChars
   */
  offer(sizes, maxPromptChars) {
    const options = sizes.map(({ name, width, height }) => new Option(`${name} · ${width}×${height}`, name));
    const chosen = this.size.value;
    this.size.replaceChildren(new Option("Auto", "auto"), ...options);
    this.setSize(chosen);
    this.prompt.maxLength = maxPromptChars;
  }

  /** @param {string} name a size on offer; anything else is left alone */
  setSize(name) {
    if ([...this.size.options].some((option) => option.value === name)) {
      this.size.value = name;
    }
  }

  /** @param {string} state */
  showState(state) {
    this.live = isLive(state);
    byId("go-label").textContent = this.live ? "Steer" : "Play";
    byId("stop").hidden = !this.live;
    this.seed.disabled = this.live;
    if (!this.live) {
      this.seed.placeholder = "random";
    }
    byId("dice").disabled = this.live;
    this.record.disabled = this.live;
  }

  /** Nothing can be made without a prompt. */
  askForPrompt() {
    this.notice("Say what the video should show.");
    this.prompt.focus();
  }

  /** @param {string} text something that went wrong, or "" */
  notice(text) {
    byId("notice").textContent = text;
  }

  /** Put a prompt that is on the screen on top of the list. */
  addDirection({ prompt, ptsUs, latencyMs }) {
    const item = document.createElement("li");
    const whole = Math.floor(ptsUs / 1e6);
    const time = document.createElement("time");
    time.textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
    const button = this.#lineButton(prompt);
    button.prepend(time);
    if (latencyMs !== null) {
      const delay = document.createElement("span");
      delay.className = "delay";
      delay.textContent = `after ${(latencyMs / 1000).toFixed(1)} s`;
      button.append(delay);
    }
    item.append(button);
    byId("directions").prepend(item);
    byId("directions-section").hidden = false;
  }

  /** A new session starts with an empty list. */
  clearDirections() {
    byId("directions").replaceChildren();
    byId("directions-section").hidden = true;
  }

  #submitOnEnter(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    }
  }

  #lineButton(prompt) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "line";
    const text = document.createElement("span");
    text.textContent = prompt;
    button.append(text);
    button.addEventListener("click", () => {
      this.setText(prompt);
      this.commands.submit();
    });
    return button;
  }

  #makeExamples() {
    const items = EXAMPLES.map((prompt) => {
      const item = document.createElement("li");
      item.append(this.#lineButton(prompt));
      return item;
    });
    byId("examples").append(...items);
  }

  #makeWords() {
    this.chips = [];
    for (const group of WORD_GROUPS) {
      const box = document.createElement("div");
      box.className = "word-group";
      box.role = "group";
      box.setAttribute("aria-label", group.name);
      const name = document.createElement("span");
      name.textContent = group.name;
      name.setAttribute("aria-hidden", "true");
      box.append(name, ...group.words.map((word) => this.#makeChip(group, word)));
      byId("words").append(box);
    }
  }

  #makeChip(group, { label, phrase }) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.textContent = label;
    chip.setAttribute("aria-pressed", "false");
    chip.addEventListener("click", () => {
      this.setText(steerPrompt(this.prompt.value, group, phrase));
      if (this.live) {
        this.commands.submit();
      }
    });
    this.chips.push({ chip, phrase });
    return chip;
  }

  #markWords() {
    for (const { chip, phrase } of this.chips) {
      chip.setAttribute("aria-pressed", String(promptHas(this.prompt.value, phrase)));
    }
  }
}
