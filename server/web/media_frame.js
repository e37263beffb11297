/**
 * Media frames of `/v1/stream`: a 24-byte little-endian header, then one H.264 access unit (Annex B)
 * or one piece of fragmented MP4.
 *
 * offset 0 u8 version, 1 u8 flags, 2 u16 generation, 4 u32 seq, 8 f64 pts (µs), 16 f64 capture time (ms).
 */

export const HEADER_BYTES = 24;
export const HEADER_VERSION = 1;

const FLAG_KEY = 1;
const FLAG_INIT = 2;
const FLAG_DISCONTINUITY = 4;

/**
 * @typedef {object} MediaFrame
 * @property {boolean} key whether a decoder can start here
 * @property {boolean} init whether the payload is an fMP4 init segment, without a picture
 * @property {boolean} discontinuity whether pts does not follow from the frame before
 * @property {number} generation number of the `stream.config` that this frame belongs to
 * @property {number} seq
 * @property {number} ptsUs
 * @property {number} captureMs Unix time at which the server had the picture, in milliseconds
 * @property {Uint8Array} payload a view into the received buffer
 */

/**
 * @param {ArrayBuffer} buffer one binary WebSocket message
 * @returns {MediaFrame}
 * @throws {RangeError} when the message is too short or of another version
 */
export function parseMediaFrame(buffer) {
  if (buffer.byteLength < HEADER_BYTES) {
    throw new RangeError(`media frame of ${buffer.byteLength} bytes is shorter than its header`);
  }
  const view = new DataView(buffer);
  const version = view.getUint8(0);
  if (version !== HEADER_VERSION) {
    throw new RangeError(`media frame version ${version}, this page reads version ${HEADER_VERSION}`);
  }
  const flags = view.getUint8(1);
  return {
    key: (flags & FLAG_KEY) !== 0,
    init: (flags & FLAG_INIT) !== 0,
    discontinuity: (flags & FLAG_DISCONTINUITY) !== 0,
    generation: view.getUint16(2, true),
    seq: view.getUint32(4, true),
    ptsUs: view.getFloat64(8, true),
    captureMs: view.getFloat64(16, true),
    payload: new Uint8Array(buffer, HEADER_BYTES),
  };
}
