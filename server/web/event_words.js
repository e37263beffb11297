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

/**
 * @param {{size: string, reason: string, sr_share?: number, bitrate_share?: number}} event `quality.changed`
 * @returns {string}
 */
export function qualityWords({ size, reason, sr_share = 1, bitrate_share = 1 }) {
  if (reason === "connection") {
    return bitrate_share < 1
      ? "A coarser picture: the connection carries no more"
      : "The full picture again: the connection carries it";
  }
  const what = sr_share < 1 ? `Size ${size} with less detail` : `Size ${size}`;
  const why = QUALITY_REASONS[reason] ?? reason.replaceAll("_", " ");
  return why === "" ? what : `${what}: ${why}`;
}

/** @param {{state: string}} event `session.resumed` @returns {string} */
export function resumptionWords({ state }) {
  return RESUMPTIONS[state] ?? "The stream goes on";
}
