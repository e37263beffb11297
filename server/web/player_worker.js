/** The worker of the player: session and WebCodecs playback, driven by messages from `player.js`. */

import { StreamClient } from "./stream_client.js";
import { WebCodecsSink } from "./webcodecs_sink.js";

let client = null;

const commands = {
  open({ canvas, origin, transport, codecs }) {
    const listener = {};
    client = new StreamClient({
      origin,
      sink: new WebCodecsSink(canvas, listener),
      transport,
      codecs,
      emit: (event) => self.postMessage(event),
    });
    for (const name of ["frameShown", "running", "ranDry", "playedOut", "requestKeyframe", "failed"]) {
      listener[name] = client[name].bind(client);
    }
  },
  start: ({ request }) => client.start(request),
  steer: (change) => client.steer(change),
  resize: (change) => client.resize(change),
  setPaused: (change) => client.setPaused(change),
  stop: () => client.stop(),
  retryNow: () => client.retryNow(),
};

self.onmessage = ({ data: { command, ...fields } }) => commands[command](fields);
