/** The stage: state card, marker of an applied prompt, buttons over the picture, full screen. */

import { isLive, isShowing, wordingOf } from "./states.js";

const MARKER_MS = 4000;
const STILL_AFTER_MS = 2500;
// A little longer than the player listens for it.
const RECORDING_PATIENCE_MS = 32_000;

const byId = (id) => document.getElementById(id);

export class StageView {
  /** @param {{play, retryNow, togglePause}} commands called for buttons and keys */
  constructor(commands) {
    this.theatre = byId("theatre");
    this.stage = byId("stage");
    this.commands = commands;
    this.markerTimer = 0;
    this.stillTimer = 0;
    this.recorded = false;
    this.recording = undefined;
    this.recordingTimer = 0;
    byId("pause").addEventListener("click", commands.togglePause);
    byId("fullscreen").addEventListener("click", () => this.toggleFullscreen());
    byId("card-action").addEventListener("click", () => commands[this.action]());
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.stage.addEventListener("dblclick", (event) => event.target.closest("button") || this.toggleFullscreen());
    document.addEventListener("fullscreenchange", () => this.#immerse(document.fullscreenElement !== null));
    for (const name of ["pointermove", "pointerdown", "keydown"]) {
      this.theatre.addEventListener(name, () => this.#stir());
    }
    this.showState("idle", {});
  }

  /** @param {string} state @param {object} detail */
  showState(state, detail) {
    const { pill, curtain, busy, title, detail: text, progress, action } = wordingOf(state, detail);
    this.theatre.dataset.state = state;
    byId("pill-text").textContent = pill;
    byId("curtain").classList.toggle("is-drawn", curtain === true);
    if (curtain) {
      byId("spinner").hidden = !busy;
      byId("card-title").textContent = title;
      byId("card-detail").textContent = text ?? "";
      this.#showProgress(progress);
      this.#showAction(action);
    }
    const pause = byId("pause");
    pause.disabled = !isShowing(state);
    pause.setAttribute("aria-pressed", String(state === "paused"));
    pause.setAttribute("aria-label", state === "paused" ? "Go on" : "Pause");
    byId("pill-recording").hidden = !(this.recorded && isLive(state));
    this.#showRecording(text ?? "");
  }

  /** Whether the session is recorded, which the picture says as long as it runs. @param {boolean} recorded */
  setRecorded(recorded) {
    this.recorded = recorded;
    this.recording = undefined;
  }

  /** The files of a recorded session are whole. @param {import("./recordings.js").Recording | null} recording */
  endRecording(recording) {
    this.recording = recording;
    this.#showRecording("");
  }

  /** The first frame is there, or none any more. @param {boolean} present */
  showPicture(present) {
    this.stage.classList.toggle("has-picture", present);
  }

  /** Give the stage the shape of the picture. */
  shape({ width, height }) {
    this.stage.style.setProperty("aspect-ratio", `${width} / ${height}`);
  }

  /** Describe the picture to those who don't see it. @param {string} prompt */
  describe(prompt) {
    for (const element of [byId("picture"), byId("video")]) {
      element.setAttribute("aria-label", `Generated video: ${prompt}`);
    }
  }

  /** Say over the picture what it shows from now on. @param {string} text */
  mark(text) {
    const marker = byId("marker");
    marker.hidden = true;
    marker.textContent = text;
    marker.hidden = false;
    clearTimeout(this.markerTimer);
    this.markerTimer = setTimeout(() => {
      marker.hidden = true;
    }, MARKER_MS);
  }

  /** @param {number | null} ptsUs */
  showTime(ptsUs) {
    const whole = Math.floor(Math.max(0, ptsUs ?? 0) / 1e6);
    byId("clock").textContent =
      ptsUs === null ? "" : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  toggleFullscreen() {
    if (document.fullscreenElement !== null) {
      document.exitFullscreen();
    } else if (this.theatre.classList.contains("is-immersive")) {
      this.#immerse(false);
    } else if (this.theatre.requestFullscreen === undefined) {
      this.#immerse(true);
    } else {
      this.theatre.requestFullscreen().catch(() => this.#immerse(true));
    }
  }

  #immerse(on) {
    this.theatre.classList.toggle("is-immersive", on);
    byId("fullscreen").setAttribute("aria-pressed", String(on));
    this.#stir();
  }

  /** In full screen the controls leave when nothing moves. */
  #stir() {
    this.theatre.classList.remove("is-still");
    clearTimeout(this.stillTimer);
    this.stillTimer = setTimeout(() => this.theatre.classList.add("is-still"), STILL_AFTER_MS);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const onStage = event.target === this.stage;
    const actions = {
      p: () => this.commands.togglePause(),
      f: () => this.toggleFullscreen(),
      i: () => byId("stats-toggle").click(),
    };
    const key = event.key === " " && onStage ? "p" : event.key.toLowerCase();
    if (key === "escape" && document.fullscreenElement === null) {
      this.#immerse(false);
    } else if (actions[key] !== undefined) {
      event.preventDefault();
      actions[key]();
    }
  }

  /** On the card at the end: the file, or that it is waited for. @param {string} text what stands there already */
  #showRecording(text) {
    clearTimeout(this.recordingTimer);
    const link = byId("card-download");
    const awaited = this.recorded && this.theatre.dataset.state === "ended";
    link.hidden = !(awaited && this.recording?.addresses.length === 1);
    if (!awaited) {
      return;
    }
    const detail = byId("card-detail");
    if (this.recording === undefined) {
      detail.textContent = `${text} The recording is being finished…`;
      this.recordingTimer = setTimeout(() => {
        detail.textContent = "The recording cannot be had: the server did not say where it is.";
      }, RECORDING_PATIENCE_MS);
    } else {
      link.href = this.recording?.addresses[0] ?? "";
      detail.textContent = wordsAfter(this.recording);
    }
  }

  #showProgress(progress) {
    const bar = byId("card-progress");
    bar.hidden = progress === undefined;
    if (typeof progress === "number") {
      bar.value = progress;
    } else {
      bar.removeAttribute("value");
    }
  }

  #showAction(action) {
    const button = byId("card-action");
    button.hidden = action === undefined;
    this.action = action?.command;
    button.textContent = action?.label ?? "";
  }
}

function wordsAfter(recording) {
  if (recording === null) {
    return "Nothing was recorded: it ended before its first frame.";
  }
  const parts = recording.addresses.length;
  return parts === 1 ? "It was recorded." : `It was recorded in ${parts} parts; they are in the list of videos.`;
}
