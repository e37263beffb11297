/** The statistics overlay: what is made, what is shown, how late, and where the time goes. */

const WINDOW_MS = 2000;
const COLOURS = ["#ff9a62", "#ffd166", "#6fe0a0", "#62c6ff", "#b79cff", "#ff8fb8", "#c9c4d6"];

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const shownOr = (value, format) => (typeof value === "number" ? format(value) : "–");

export class StatsView {
  /** @param {HTMLElement} panel @param {HTMLButtonElement} toggle */
  constructor(panel, toggle) {
    this.panel = panel;
    this.toggle = toggle;
    this.reports = [];
    this.values = {};
    this.rows = document.createElement("dl");
    this.bars = document.createElement("div");
    this.bars.className = "stage-bars";
    this.bars.setAttribute("aria-hidden", "true");
    this.legend = document.createElement("ul");
    this.legend.className = "stage-legend";
    panel.append(this.rows, this.bars, this.legend);
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
      ["Bit rate", shownOr(v.encoded_kbps, (kbps) => `${whole.format(kbps)} kb/s`)],
      ["Dropped", shownOr(v.dropped, (count) => whole.format(count))],
      ["Picture", v.width === undefined ? "–" : `${v.width}×${v.height}`],
      ["Codec", v.codec ?? "–"],
      ["Player", v.player ?? "–"],
      ["Seed", v.seed === undefined ? "–" : String(v.seed)],
    ];
    this.rows.replaceChildren(
      ...rows.flatMap(([name, value]) => [textElement("dt", name), textElement("dd", value)]),
    );
    this.#drawStages(v.stages ?? {});
  }

  #drawStages(stages) {
    const entries = Object.entries(stages).filter(([, ms]) => ms > 0);
    this.bars.hidden = entries.length === 0;
    const parts = entries.map(([, ms], index) => {
      const part = document.createElement("span");
      part.style.setProperty("--stage-colour", COLOURS[index % COLOURS.length]);
      part.style.setProperty("flex-grow", String(ms));
      return part;
    });
    this.bars.replaceChildren(...parts);
    const lines = entries.map(([name, ms], index) => {
      const line = document.createElement("li");
      const swatch = document.createElement("i");
      swatch.style.setProperty("--stage-colour", COLOURS[index % COLOURS.length]);
      line.append(swatch, `${name} ${number.format(ms)} ms`);
      return line;
    });
    this.legend.replaceChildren(...lines);
  }
}

function textElement(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
