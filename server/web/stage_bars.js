/** Where the time of a frame goes: one bar a stage, each beginning where the one before it ends. */

const COLOURS = ["#ff9a62", "#ffd166", "#6fe0a0", "#62c6ff", "#b79cff", "#ff8fb8", "#c9c4d6"];

const oneDigit = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export class StageBars {
  constructor() {
    this.element = make("div", "stage-bars");
    this.summary = make("p", "stage-summary");
    this.list = make("ul", "stage-list");
    this.element.append(this.summary, this.list);
  }

  /**
   * @param {object} costs
   * @param {Record<string, number>} costs.stages milliseconds a frame by stage
   * @param {number} costs.frameMs how long a frame is on the screen, NaN while that is not known
   */
  show({ stages, frameMs }) {
    const entries = Object.entries(stages).filter(([, ms]) => ms > 0);
    this.element.hidden = entries.length === 0;
    const wholeMs = entries.reduce((sum, [, ms]) => sum + ms, 0);
    const spanMs = Math.max(wholeMs, frameMs || 0);
    const shown = frameMs > 0 ? `, shown for ${oneDigit.format(frameMs)} ms` : "";
    this.summary.textContent = `A frame: ${oneDigit.format(wholeMs)} ms of work${shown}`;
    let fromMs = 0;
    const lines = entries.map(([name, ms], index) => {
      const line = stageLine(name, ms, { from: fromMs / spanMs, share: ms / spanMs, colour: COLOURS[index % COLOURS.length] });
      fromMs += ms;
      return line;
    });
    this.list.replaceChildren(...lines);
  }
}

function stageLine(name, ms, { from, share, colour }) {
  const line = make("li", "");
  const track = make("span", "stage-track");
  const bar = make("span", "stage-bar");
  bar.style.setProperty("--from", `${(100 * from).toFixed(2)}%`);
  bar.style.setProperty("--share", `${(100 * share).toFixed(2)}%`);
  bar.style.setProperty("--colour", colour);
  track.append(bar);
  line.append(make("span", "", name), track, make("span", "stage-ms", `${oneDigit.format(ms)} ms`));
  return line;
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
