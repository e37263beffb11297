/** The client of a player, one's own session or somebody else's, with the sink that it plays into. */

import { StreamClient } from "./stream_client.js";
import { WatchClient } from "./watch_client.js";

// H.264 High at level 5.1: enough for 2560x1440 at 30 frames a second.
export const H264 = "avc1.640033";

/**
 * @param {(listener: object) => import("./stream_client.js").Sink} makeSink
 * @param {object} options of the client
 * @param {boolean} options.watching whether somebody else's session is watched
 */
export function createClient(makeSink, { watching, ...options }) {
  const listener = {};
  const Client = watching ? WatchClient : StreamClient;
  const client = new Client({ sink: makeSink(listener), codecs: [H264], ...options });
  for (const name of ["frameShown", "running", "ranDry", "playedOut", "requestKeyframe", "failed"]) {
    listener[name] = client[name].bind(client);
  }
  return client;
}
