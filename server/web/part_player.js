/** A player for the files of a video, one after the other, and a way to save one of them. */

// An address that opened a file a while ago may have expired since; one that never opened it is wrong.
const RENEW_AFTER_MS = 10_000;

/**
 * @param {object} options
 * @param {string} options.title
 * @param {string[]} options.addresses of the files, in the order in which they play
 * @param {(address: string) => Promise<string>} options.open what the browser can load, for an address
 * @param {(message: string) => void} options.onBroken
 * @returns {HTMLVideoElement}
 */
export function makePlayer({ title, addresses, open, onBroken }) {
  const video = document.createElement("video");
  Object.assign(video, { controls: true, playsInline: true, preload: "metadata" });
  video.setAttribute("aria-label", `Video: ${title}`);
  let part = 0;
  let openedMs = 0;
  const load = async (atS) => {
    openedMs = performance.now();
    try {
      video.src = await open(addresses[part]);
      video.currentTime = atS;
    } catch (error) {
      onBroken(error.message);
    }
  };
  video.addEventListener("ended", async () => {
    if (addresses.length > 1) {
      part = (part + 1) % addresses.length;
      await load(0);
      if (part > 0) {
        await video.play();
      }
    }
  });
  video.addEventListener("error", () => {
    if (performance.now() - openedMs > RENEW_AFTER_MS) {
      load(video.currentTime);
    } else {
      onBroken("The file is no longer there, or this browser cannot play it.");
    }
  });
  load(0);
  return video;
}

/** Let the browser save a file. @param {string} address what it can load */
export function save(address) {
  const link = document.createElement("a");
  link.href = address;
  link.download = "";
  link.click();
}
