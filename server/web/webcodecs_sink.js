/**
 * Decodes H.264 access units with WebCodecs and draws them on an OffscreenCanvas by their presentation time.
 * Made for a dedicated worker: decoding and drawing never wait for the page.
 */

import { FINISHED, HELD, PlayoutClock, RUNNING, WAITING } from "./playout_clock.js";

// Decoded pictures are large and a decoder owns few of them: the jitter buffer holds encoded frames, and only
// this many are decoded before their time.
const DECODE_AHEAD = 5;
const DECODER_ATTEMPTS = 3;
// The header of a media frame has 16 bits for the generation.
const GENERATION_MASK = 0xffff;
const LARGEST_GAP_US = 250_000;

export class WebCodecsSink {
  /**
   * @param {OffscreenCanvas} canvas
   * @param {object} listener receives frameShown, running, ranDry, playedOut, requestKeyframe and failed
   */
  constructor(canvas, listener) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.listener = listener;
    this.clock = new PlayoutClock();
    this.configs = new Map();
    this.decoder = null;
    this.epoch = 0;
    this.reset();
    const tick = () => {
      this.#tick();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  reset() {
    this.epoch += 1;
    this.#closeDecoder();
    this.decoded?.forEach(({ picture }) => picture.close());
    this.configs.clear();
    this.clock.reset();
    this.encoded = [];
    this.decoded = [];
    this.metadata = new Map();
    this.generation = null;
    this.switching = false;
    this.needsKey = true;
    this.failures = 0;
    this.frameUs = 0;
    this.shown = 0;
    this.dropped = 0;
    this.newest = { seq: -1, ptsUs: -1 };
  }

  configure(config) {
    this.configs.set(config.generation & GENERATION_MASK, config);
    this.frameUs = 1e6 / config.fps;
  }

  push(frame) {
    this.encoded.push(frame);
    this.clock.receive(frame.ptsUs, this.frameUs);
    this.#feed();
  }

  setGeneratedFps(fps) {
    this.clock.setCapability((fps * this.frameUs) / 1e6);
  }

  setPaused(paused) {
    if (paused) {
      this.clock.hold(performance.now());
    } else {
      this.clock.release();
    }
  }

  finish() {
    this.clock.finish();
  }

  report() {
    return {
      shown: this.shown,
      dropped: this.dropped,
      seq: this.newest.seq,
      ptsUs: this.newest.ptsUs,
      bufferedMs: this.clock.bufferedMs(performance.now()),
      speed: this.clock.speed,
    };
  }

  #feed() {
    while (this.encoded.length > 0 && !this.switching && this.metadata.size + this.decoded.length < DECODE_AHEAD) {
      const frame = this.encoded[0];
      if (frame.generation !== this.generation) {
        this.#switchTo(frame.generation);
        return;
      }
      this.encoded.shift();
      if (this.needsKey && !frame.key) {
        this.dropped += 1;
        continue;
      }
      this.needsKey = false;
      this.#decode(frame);
    }
  }

  #decode(frame) {
    const timestamp = Math.round(frame.ptsUs);
    this.metadata.set(timestamp, frame);
    this.decoder.decode(
      new EncodedVideoChunk({ type: frame.key ? "key" : "delta", timestamp, data: frame.payload }),
    );
  }

  /** Let the old generation out of the decoder, then set it up for the new one. */
  async #switchTo(generation) {
    const config = this.configs.get(generation);
    if (config === undefined) {
      this.listener.failed(`media of generation ${generation} came without its stream.config`);
      return;
    }
    this.switching = true;
    const { decoder, epoch } = this;
    if (decoder !== null && decoder.state === "configured") {
      // A decoder that fails while it is emptied reports that to its error callback as well.
      await decoder.flush().catch(() => {});
    }
    if (epoch !== this.epoch) {
      return;
    }
    this.#openDecoder(config);
    this.configs.delete(this.generation);
    this.generation = generation;
    this.switching = false;
    this.#feed();
  }

  #openDecoder(config) {
    this.#closeDecoder();
    const decoder = new VideoDecoder({
      output: (picture) => this.#take(decoder, picture),
      error: (error) => decoder === this.decoder && this.#decoderFailed(error),
    });
    decoder.configure({ codec: config.codec, optimizeForLatency: true });
    this.decoder = decoder;
    this.needsKey = true;
  }

  #closeDecoder() {
    if (this.decoder !== null && this.decoder.state !== "closed") {
      this.decoder.close();
    }
    this.decoder = null;
    this.dropped += this.metadata?.size ?? 0;
    this.metadata?.clear();
  }

  #decoderFailed(error) {
    this.failures += 1;
    if (this.switching) {
      return;
    }
    if (this.failures >= DECODER_ATTEMPTS) {
      this.listener.failed(`the browser cannot decode this video: ${error.message}`);
      return;
    }
    this.#openDecoder(this.configs.get(this.generation));
    this.listener.requestKeyframe();
  }

  #take(decoder, picture) {
    const frame = this.metadata.get(picture.timestamp);
    if (decoder !== this.decoder || frame === undefined) {
      picture.close();
      return;
    }
    this.metadata.delete(picture.timestamp);
    this.failures = 0;
    this.decoded.push({ frame, picture });
  }

  #tick() {
    const nowMs = performance.now();
    const phase = this.clock.phase;
    this.#followJump(nowMs);
    const positionUs = this.clock.advance(nowMs);
    if (positionUs !== null && this.clock.phase !== HELD) {
      this.#showDue(positionUs);
    }
    this.#feed();
    if (this.clock.phase !== phase) {
      this.#tell(this.clock.phase);
    }
  }

  #tell(phase) {
    if (phase === RUNNING) {
      this.listener.running();
    } else if (phase === WAITING) {
      this.listener.ranDry();
    } else if (phase === FINISHED) {
      this.listener.playedOut();
    }
  }

  /** Where the stream says that time does not continue, the clock goes along as soon as it is reached. */
  #followJump(nowMs) {
    const next = this.decoded[0]?.frame;
    if (!next?.discontinuity || this.newest.seq < 0) {
      return;
    }
    const gapUs = next.ptsUs - this.newest.ptsUs;
    if (gapUs < 0 || gapUs > LARGEST_GAP_US) {
      this.clock.jump(next.ptsUs, nowMs);
    }
  }

  #showDue(positionUs) {
    let due = null;
    while (this.decoded.length > 0 && this.decoded[0].frame.ptsUs <= positionUs) {
      if (due !== null) {
        due.picture.close();
        this.dropped += 1;
      }
      due = this.decoded.shift();
    }
    if (due !== null) {
      this.#draw(due);
    }
  }

  #draw({ frame, picture }) {
    const { displayWidth, displayHeight } = picture;
    if (this.canvas.width !== displayWidth || this.canvas.height !== displayHeight) {
      this.canvas.width = displayWidth;
      this.canvas.height = displayHeight;
    }
    this.context.drawImage(picture, 0, 0, displayWidth, displayHeight);
    picture.close();
    this.shown += 1;
    this.newest = frame;
    this.listener.frameShown(frame);
  }
}
