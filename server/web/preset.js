/** What the server can be asked for, once it knows. */

import { ask } from "./rest.js";

const RETRY_MS = 2000;
const NO_KEY = 401;
const NOT_READY = 503;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * @param {(trouble: string) => void} onTrouble told when something other than loading stands in the way
 * @returns {Promise<object>} the loaded preset: name, sizes and the longest prompt, from `/v1/capabilities`
 */
export async function waitForPreset(onTrouble) {
  for (;;) {
    try {
      const { presets, default_preset: name } = await ask("/v1/capabilities");
      return presets.find((one) => one.name === name) ?? presets[0];
    } catch (error) {
      if (error.status === NO_KEY) {
        onTrouble("This server makes nothing without an API key. Load the page again to give one.");
        return new Promise(() => {});
      }
      if (error.status !== NOT_READY) {
        onTrouble(error.message);
      }
    }
    await sleep(RETRY_MS);
  }
}
