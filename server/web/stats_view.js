/** The statistics overlay: what is made, what is shown, how late, and where the time goes. */

import { StageBars } from "./stage_bars.js";

const WINDOW_MS = 2000;

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const limitOf = (share = 1) => (share < 1 ? ` (limited to ${Math.round(share * 100)}%)` : "");
const shownOr = (value, format) => (typeof value === "number" ? format(value) : "–");

export class StatsView {
  /** @param {HTMLElement} panel @param {HTMLButtonElement} toggle */
  constructor(panel, toggle) {
    this.panel = panel;
    this.toggle = toggle;
    this.reports = [];
    this.values = {};
    this.rows = document.createElement("dl");
    this.bars = new StageBars();
    panel.append(this.rows, this.bars.element);
    toggle.addEventListener("click", () => this.setVisible(panel.hidden));
  }

  /** @param {boolean} visible */
  setVisible(visible) {
    this.panel.hidden = !visible;
    this.toggle.setAttribute("aria-pressed", String(visible));
    this.#draw();
  }

  /** Forget the session before. */
  reset() {
    this.reports = [];
    this.values = {};
    this.#draw();
  }

  /** Take in new values; those not given stay. @param {object} values */
  update(values) {
    Object.assign(this.values, values);
    this.#draw();
  }

  /** Take in a report of the player. @param {object} report */
  addReport(report) {
    this.reports.push(report);
    while (report.nowMs - this.reports[0].nowMs > WINDOW_MS) {
      this.reports.shift();
    }
    const first = this.reports[0];
    const elapsedS = (report.nowMs - first.nowMs) / 1000;
    if (elapsedS > 0) {
      this.values.shownFps = (report.shown - first.shown) / elapsedS;
      this.values.receivedKbps = ((report.receivedBytes - first.receivedBytes) * 8) / 1000 / elapsedS;
    }
    const { bufferedMs, dropped, speed, latencyMs, shown } = report;
    this.update({ bufferedMs, dropped, speed, latencyMs, shown });
  }

  /** A frozen copy of everything that is shown. */
  snapshot() {
    return Object.freeze({ ...this.values, stages: Object.freeze({ ...this.values.stages }) });
  }

  #draw() {
    if (this.panel.hidden) {
      return;
    }
    const v = this.values;
    const rows = [
      ["Generated", shownOr(v.generated_fps, (fps) => `${number.format(fps)} fps`)],
      ["Shown", shownOr(v.shownFps, (fps) => `${number.format(fps)} fps`)],
      ["Speed", shownOr(v.speed, (speed) => `${Math.round(speed * 100)}%`)],
      ["First picture", shownOr(v.firstPictureMs, (ms) => `${whole.format(ms)} ms`)],
      ["Prompt to picture", shownOr(v.promptMs, (ms) => `${whole.format(ms)} ms`)],
      ["Age of the picture", shownOr(v.latencyMs, (ms) => `${whole.format(ms)} ms`)],
      ["Ahead", shownOr(v.ahead_ms, (ms) => `${whole.format(ms)} ms`)],
      ["Buffered here", shownOr(v.bufferedMs, (ms) => `${whole.format(ms)} ms`)],
      ["Bit rate", shownOr(v.encoded_kbps, (kbps) => `${whole.format(kbps)} kb/s${limitOf(v.bitrate_share)}`)],
      ["Dropped", shownOr(v.dropped, (count) => whole.format(count))],
      ["Picture", v.width === undefined ? "–" : `${v.width}×${v.height}`],
      ["Codec", v.codec ?? "–"],
      ["Player", v.player ?? "–"],
      ["Seed", v.seed === undefined ? "–" : String(v.seed)],
    ];
    this.rows.replaceChildren(
      ...rows.map(([name, value]) => {
        const row = document.createElement("div");
        row.append(textElement("dt", name), textElement("dd", value));
        return row;
      }),
    );
    this.bars.show({ stages: v.stages ?? {}, frameMs: 1000 / v.fps });
  }
}

function textElement(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
