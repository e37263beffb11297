/** The page: connects the prompt box and the stage to the player. */

import { ComposerView, drawSeed } from "./composer_view.js";
import { choosePlayer, createPlayer } from "./player.js";
import { EXAMPLES } from "./prompt_words.js";
import { StageView } from "./stage_view.js";
import { isLive, isShowing, wordingOf } from "./states.js";
import { StatsView } from "./stats_view.js";

const ANNOUNCE_AFTER_MS = 700;
const SHOW_WAIT_AFTER_MS = 600;
const CAPABILITIES_RETRY_MS = 2000;
const SIZE_REASONS = { overload: " for now, the server is busy", recovered: " again" };
const PLAYER_NAMES = { webcodecs: "WebCodecs", mse: "MSE" };

class App {
  constructor() {
    this.query = new URLSearchParams(location.search);
    this.state = "idle";
    this.framesShown = 0;
    this.lastPtsUs = -1;
    this.player = null;
    this.eventCount = 0;
    this.requestedSizes = new Map();
    this.hiddenByPage = false;
    this.announceTimer = 0;
    this.stateTimer = 0;
    this.model = "";
    this.sizeInForce = "auto";
    this.announcements = [];
    this.stats = new StatsView(document.getElementById("stats"), document.getElementById("stats-toggle"));
    this.stage = new StageView({
      play: () => this.play(),
      retryNow: () => this.player.retryNow(),
      togglePause: () => this.togglePause(),
    });
    this.composer = new ComposerView({
      submit: () => this.submit(),
      stop: () => this.player.stop(),
      resize: () => this.resize(),
    });
  }

  async begin() {
    this.composer.setText(this.query.get("prompt") ?? EXAMPLES[0]);
    this.composer.seed.value = this.query.get("seed") ?? "";
    document.addEventListener("visibilitychange", () => this.#followVisibility());
    this.#loadCapabilities();
    this.kind = await choosePlayer(this.query.get("player"));
    if (this.kind === null) {
      this.#setState("error", { message: "This browser plays neither WebCodecs nor Media Source Extensions." });
      return;
    }
    this.player = createPlayer(this.kind, {
      canvas: document.getElementById("picture"),
      video: document.getElementById("video"),
      origin: location.origin,
      onEvent: (event) => this.#take(event),
    });
    if (this.query.has("play")) {
      this.play();
    }
  }

  /** Play or steer, whichever the moment asks for. */
  submit() {
    this.composer.notice("");
    if (this.composer.text === "") {
      this.composer.notice("Say what the video should show.");
      this.composer.prompt.focus();
    } else if (isLive(this.state)) {
      this.player?.steer({ prompt: this.composer.text, eventId: this.#eventId() });
    } else {
      this.play();
    }
  }

  play() {
    if (this.player === null || this.composer.text === "") {
      return;
    }
    this.stats.reset();
    this.composer.clearDirections();
    this.composer.notice("");
    this.framesShown = 0;
    this.lastPtsUs = -1;
    this.sizeInForce = this.composer.size.value;
    this.player.start({
      prompt: this.composer.text,
      size: this.sizeInForce,
      seed: this.composer.chosenSeed ?? drawSeed(),
    });
  }

  togglePause() {
    if (isShowing(this.state)) {
      this.hiddenByPage = false;
      this.player.setPaused({ paused: this.state !== "paused", eventId: this.#eventId() });
    }
  }

  resize() {
    if (isLive(this.state)) {
      const eventId = this.#eventId();
      this.requestedSizes.set(eventId, this.sizeInForce);
      this.sizeInForce = this.composer.size.value;
      this.player.resize({ size: this.sizeInForce, eventId });
    }
  }

  #take(event) {
    if (event.type === "state") {
      this.#setState(event.state, event);
    } else if (event.type === "report") {
      this.#takeReport(event);
    } else if (event.type === "prompt_shown") {
      this.#showApplied(event);
    } else if (event.type === "server") {
      this.#takeServerEvent(event);
    }
  }

  #takeReport(report) {
    this.framesShown = report.shown;
    this.lastPtsUs = report.ptsUs;
    this.stage.showTime(report.ptsUs);
    this.stats.addReport(report);
  }

  #takeServerEvent(event) {
    const handlers = {
      "session.started": () => this.#showSession(event),
      "stream.config": () => this.#showConfig(event),
      "quality.changed": () => this.#showQuality(event),
      "session.resumed": () => this.#showResumption(event),
      stats: () => this.#showStats(event),
      error: () => this.#showRefusal(event),
    };
    handlers[event.event]?.();
  }

  #showSession({ model, seed }) {
    this.model = model;
    this.composer.showSeed(seed);
    this.stats.update({ seed, player: PLAYER_NAMES[this.kind] });
  }

  #showStats({ generated_fps, encoded_kbps, ahead_ms, stages }) {
    this.stats.update({ generated_fps, encoded_kbps, ahead_ms, stages });
  }

  #showConfig({ width, height, codec }) {
    document.getElementById("model").textContent = `${this.model} · ${width}×${height}`;
    this.stage.shape({ width, height });
    this.stats.update({ width, height, codec });
  }

  #showQuality({ size, reason }) {
    this.stage.mark(`Size ${size}${SIZE_REASONS[reason] ?? ""}`);
  }

  #showResumption({ state }) {
    this.composer.notice("");
    if (state === "restarted") {
      this.stage.mark("The engine was restarted; the scene begins anew");
    }
  }

  #showRefusal({ code, message, event_id: eventId }) {
    if (["unknown_session", "bad_token", "owner_present"].includes(code)) {
      // The player comes back or starts another one by itself.
      return;
    }
    this.composer.notice(message);
    if (this.requestedSizes.has(eventId)) {
      this.sizeInForce = this.requestedSizes.get(eventId);
      this.composer.setSize(this.sizeInForce);
      this.requestedSizes.delete(eventId);
    }
  }

  #showApplied({ eventId, prompt, firstPtsUs, latencyMs }) {
    if (prompt === null) {
      return;
    }
    if (eventId === null) {
      this.stage.showPicture(true);
      this.stats.update({ firstPictureMs: latencyMs });
    } else {
      this.stage.mark(prompt);
      const { promptsApplied = 0 } = this.stats.values;
      this.stats.update({ promptMs: latencyMs, promptsApplied: promptsApplied + 1 });
    }
    this.composer.addDirection({ prompt, ptsUs: firstPtsUs, latencyMs });
    this.stage.describe(prompt);
    this.#announce(`Now showing: ${prompt}`);
  }

  #setState(state, detail) {
    const before = this.state;
    this.state = state;
    this.#showState(state, detail);
    this.composer.showState(state);
    // Short waits come and go, and a picture that starts is announced with its prompt.
    const silent = state === "rebuffering" || (state === "playing" && before !== "paused");
    if (state !== before && !silent) {
      const { pill, title, detail: text } = wordingOf(state, detail);
      this.#announce([title ?? pill, text].filter(Boolean).join(". "));
    }
  }

  /** A wait that is over at once is not worth a flicker. */
  #showState(state, detail) {
    clearTimeout(this.stateTimer);
    if (state === "rebuffering") {
      this.stateTimer = setTimeout(() => this.stage.showState(state, detail), SHOW_WAIT_AFTER_MS);
    } else {
      this.stage.showState(state, detail);
    }
  }

  /** Read out by screen readers; what happens within a moment is read as one. */
  #announce(text) {
    this.announcements.push(text);
    clearTimeout(this.announceTimer);
    this.announceTimer = setTimeout(() => {
      document.getElementById("announcer").textContent = this.announcements.join(" ");
      this.announcements = [];
    }, ANNOUNCE_AFTER_MS);
  }

  /** A page that nobody sees lets the server rest. */
  #followVisibility() {
    if (document.hidden && ["playing", "rebuffering"].includes(this.state)) {
      this.hiddenByPage = true;
      this.player.setPaused({ paused: true, eventId: this.#eventId() });
    } else if (!document.hidden && this.hiddenByPage) {
      this.hiddenByPage = false;
      this.player.setPaused({ paused: false, eventId: this.#eventId() });
    }
  }

  async #loadCapabilities() {
    try {
      const response = await fetch("/v1/capabilities");
      if (response.ok) {
        this.#offer(await response.json());
        return;
      }
    } catch (error) {
      this.composer.notice(`The server does not answer: ${error.message}`);
    }
    setTimeout(() => this.#loadCapabilities(), CAPABILITIES_RETRY_MS);
  }

  #offer({ presets, default_preset: name }) {
    const preset = presets.find((one) => one.name === name) ?? presets[0];
    this.composer.offer(preset.sizes, preset.max_prompt_chars);
    this.composer.setSize(this.query.get("size") ?? "auto");
    this.composer.notice("");
    document.getElementById("model").textContent = preset.name;
  }

  #eventId() {
    this.eventCount += 1;
    return `e${this.eventCount}`;
  }
}

const app = new App();
const view = {
  get state() {
    return app.state;
  },
  get framesShown() {
    return app.framesShown;
  },
  get lastPtsUs() {
    return app.lastPtsUs;
  },
  get stats() {
    return app.stats.snapshot();
  },
  get player() {
    return app.kind ?? null;
  },
};
Object.defineProperty(window, "ultraflash", { value: Object.freeze(view), enumerable: true });
app.begin();
