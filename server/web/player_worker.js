/** The worker of the player: session and WebCodecs playback, driven by messages from `player.js`. */

import { createClient } from "./player_client.js";
import { WebCodecsSink } from "./webcodecs_sink.js";

let client = null;

const commands = {
  open({ canvas, origin, watching }) {
    client = createClient((listener) => new WebCodecsSink(canvas, listener), {
      origin,
      watching,
      transport: "webcodecs",
      emit: (event) => self.postMessage(event),
    });
  },
  start: ({ request }) => client.start(request),
  steer: (change) => client.steer(change),
  resize: (change) => client.resize(change),
  setPaused: (change) => client.setPaused(change),
  stop: () => client.stop(),
  retryNow: () => client.retryNow(),
};

self.onmessage = ({ data: { command, ...fields } }) => commands[command](fields);
