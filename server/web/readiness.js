/** Waits for a server that is still loading weights or warming up (`/readyz`). */

const POLL_MS = 500;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * @param {string} origin
 * @param {object} options
 * @param {() => boolean} options.cancelled stops the wait when true
 * @param {(progress: {progress: number | null, stage: string}) => void} options.onProgress
 * @returns {Promise<boolean>} false when the server cannot be reached or the wait was cancelled
 */
export async function waitUntilReady(origin, { cancelled, onProgress }) {
  while (!cancelled()) {
    let response;
    try {
      response = await fetch(`${origin}/readyz`, { cache: "no-store" });
    } catch {
      return false;
    }
    if (response.ok) {
      return true;
    }
    if (response.status !== 503) {
      return false;
    }
    onProgress(await readProgress(response));
    await sleep(POLL_MS);
  }
  return false;
}

async function readProgress(response) {
  const isJson = response.headers.get("content-type")?.includes("json");
  const body = isJson ? await response.json() : {};
  return {
    progress: typeof body.progress === "number" ? body.progress : null,
    stage: body.stage ?? "starting",
  };
}
