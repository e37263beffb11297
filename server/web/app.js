/** The page: connects the prompt box and the stage to the player. */

import { Announcer } from "./announcer.js";
import { storedKey } from "./api_key.js";
import { ComposerView, drawSeed } from "./composer_view.js";
import { qualityWords, resumptionWords } from "./event_words.js";
import { choosePlayer, createPlayer } from "./player.js";
import { waitForPreset } from "./preset.js";
import { EXAMPLES } from "./prompt_words.js";
import { recordingOf } from "./recordings.js";
import { ShareView } from "./share_view.js";
import { StageView } from "./stage_view.js";
import { isLive, isShowing, isSteerable, wordingOf } from "./states.js";
import { StatsView } from "./stats_view.js";
import { VideosView } from "./videos_view.js";
import { readWatchLink } from "./watch_link.js";

const SHOW_WAIT_AFTER_MS = 600;
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
    this.stateTimer = 0;
    this.model = "";
    this.sessionId = null;
    this.sizeInForce = "auto";
    this.watched = readWatchLink(location.hash);
    this.announcer = new Announcer(document.getElementById("announcer"));
    this.share = new ShareView();
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
    this.videos = new VideosView({
      wish: () => this.#videoWish(),
      announce: (text) => this.announcer.say(text),
    });
  }

  async begin() {
    this.composer.setText(this.query.get("prompt") ?? EXAMPLES[0]);
    this.composer.seed.value = this.query.get("seed") ?? "";
    document.addEventListener("visibilitychange", () => this.#followVisibility());
    window.addEventListener("hashchange", () => readWatchLink(location.hash) && location.reload());
    document.getElementById("guest").hidden = this.watched === null;
    for (const element of document.querySelectorAll(".owner-only")) {
      element.hidden = this.watched !== null;
    }
    if (this.watched === null) {
      waitForPreset((trouble) => this.composer.notice(trouble)).then((preset) => this.#offer(preset));
      this.videos.begin();
    }
    this.kind = await choosePlayer(this.query.get("player"));
    if (this.kind === null) {
      const message = "This browser plays neither WebCodecs nor Media Source Extensions.";
      this.#setState("error", { message, final: true });
      return;
    }
    this.player = createPlayer(this.kind, {
      canvas: document.getElementById("picture"),
      video: document.getElementById("video"),
      origin: location.origin,
      watching: this.watched !== null,
      onEvent: (event) => this.#take(event),
    });
    if (this.query.has("play") || this.watched !== null) {
      this.play();
    }
  }

  /** Play or steer, whichever the moment asks for. */
  submit() {
    this.composer.notice("");
    if (this.composer.text === "") {
      this.composer.askForPrompt();
    } else if (isSteerable(this.state)) {
      this.player.steer({ prompt: this.composer.text, eventId: this.#eventId() });
    } else if (isLive(this.state)) {
      this.composer.notice("It can be steered as soon as it plays.");
    } else {
      this.play();
    }
  }

  /** Start a session of one's own, or join the one that the link is for. */
  play() {
    if (this.player === null || this.composer.text === "") {
      return;
    }
    this.stats.reset();
    this.composer.clearDirections();
    this.composer.notice("");
    this.framesShown = 0;
    this.lastPtsUs = -1;
    if (this.watched !== null) {
      this.player.start(this.watched);
      return;
    }
    this.sizeInForce = this.composer.size.value;
    this.stage.setRecorded(this.composer.recorded);
    this.player.start({
      prompt: this.composer.text,
      size: this.sizeInForce,
      seed: this.composer.chosenSeed ?? drawSeed(),
      record: this.composer.recorded,
      key: storedKey(),
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
      "session.done": () => this.#takeRecording(event),
      stats: () => this.#showStats(event),
      error: () => this.#showRefusal(event),
    };
    handlers[event.event]?.();
  }

  #showSession({ session_id: sessionId, viewer_token: token, model, seed }) {
    this.model = model;
    this.sessionId = sessionId;
    this.share.offer(token === undefined ? null : { sessionId, token });
    this.composer.showSeed(seed);
    this.stats.update({ seed, player: PLAYER_NAMES[this.kind] });
  }

  #showStats({ generated_fps, encoded_kbps, bitrate_share, ahead_ms, stages }) {
    this.stats.update({ generated_fps, encoded_kbps, bitrate_share, ahead_ms, stages });
  }

  #showConfig({ width, height, codec, fps }) {
    document.getElementById("model").textContent = `${this.model} · ${width}×${height}`;
    this.stage.shape({ width, height });
    this.stats.update({ width, height, codec, fps });
  }

  #showQuality(event) {
    this.#mention(qualityWords(event));
  }

  #showResumption(event) {
    this.composer.notice("");
    this.#mention(resumptionWords(event));
  }

  /** Said over the picture, and to those who don't see it. */
  #mention(text) {
    this.stage.mark(text);
    this.announcer.say(text);
  }

  /** The parts of a recording come with the end of its session, when its files are whole. */
  #takeRecording(event) {
    if (event.recording === undefined) {
      return;
    }
    const recording = recordingOf(event);
    if (recording !== null) {
      this.videos.addRecording(recording);
    }
    // One that ended late, after the next session had begun, is in the list only.
    if (recording === null || recording.id === this.sessionId) {
      this.stage.endRecording(recording);
    }
  }

  #showRefusal({ code, message, event_id: eventId }) {
    if (["unknown_session", "bad_token", "owner_present"].includes(code)) {
      // The player comes back or starts another one by itself.
      return;
    }
    if (code === "engine_restarting") {
      this.#mention(message);
      return;
    }
    this.composer.notice(message);
    if (code === "unauthorized") {
      // The key was good when the page was opened. Asking for anything by REST asks for a new one.
      waitForPreset((trouble) => this.composer.notice(trouble));
    }
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
      this.stats.update({ firstPictureMs: latencyMs });
    } else {
      this.stage.mark(prompt);
      const { promptsApplied = 0 } = this.stats.values;
      this.stats.update({ promptMs: latencyMs, promptsApplied: promptsApplied + 1 });
    }
    this.composer.addDirection({ prompt, ptsUs: firstPtsUs, latencyMs });
    this.stage.describe(prompt);
    this.announcer.say(`Now showing: ${prompt}`);
  }

  #setState(state, detail) {
    const before = this.state;
    this.state = state;
    this.#showState(state, detail);
    this.composer.showState(state);
    if (state === "playing") {
      this.stage.showPicture(true);
    }
    if (!isLive(state)) {
      this.share.offer(null);
    }
    // Short waits come and go, and a picture that starts is announced with its prompt.
    const silent = state === "rebuffering" || (state === "playing" && before !== "paused");
    if (state !== before && !silent) {
      const { pill, title, detail: text } = wordingOf(state, detail);
      this.announcer.say([title ?? pill, text].filter(Boolean).join(". "));
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

  #offer(preset) {
    this.composer.offer(preset.sizes, preset.max_prompt_chars);
    this.composer.setSize(this.query.get("size") ?? "auto");
    this.composer.notice("");
    document.getElementById("model").textContent = preset.name;
  }

  /** What a video in the background is to be made from, or null after having said what is missing. */
  #videoWish() {
    const { text: prompt, chosenSeed: seed = drawSeed() } = this.composer;
    if (prompt === "") {
      this.composer.askForPrompt();
      return null;
    }
    return { prompt, size: this.composer.size.value, seed };
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
