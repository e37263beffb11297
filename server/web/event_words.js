/** What the page says about events that change the picture while it runs. */

const QUALITY_REASONS = {
  requested: "",
  overload: "the machine is busy",
  recovered: "there is room for it again",
};

const RESUMPTIONS = {
  continued: "Connected again",
  rejoined: "Connected again; some of it was missed",
  restored: "The engine was restarted; the picture goes on",
  restarted: "The engine was restarted; the scene begins anew",
};

/** @param {{size: string, reason: string}} event `quality.changed` @returns {string} */
export function qualityWords({ size, reason }) {
  const why = QUALITY_REASONS[reason] ?? reason.replaceAll("_", " ");
  return why === "" ? `Size ${size}` : `Size ${size}: ${why}`;
}

/** @param {{state: string}} event `session.resumed` @returns {string} */
export function resumptionWords({ state }) {
  return RESUMPTIONS[state] ?? "The stream goes on";
}
