/**
 * The link with which somebody else watches a session. What opens it stands behind `#`, which browsers keep to
 * themselves: it reaches no log on the way.
 */

/**
 * @param {string} origin of the page
 * @param {{sessionId: string, token: string}} target
 * @returns {string}
 */
export function makeWatchLink(origin, { sessionId, token }) {
  return `${origin}/#${new URLSearchParams({ watch: sessionId, token })}`;
}

/**
 * @param {string} hash `location.hash`
 * @returns {{sessionId: string, token: string} | null} null where the page was not opened to watch
 */
export function readWatchLink(hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const sessionId = fields.get("watch");
  return sessionId === null ? null : { sessionId, token: fields.get("token") ?? "" };
}
