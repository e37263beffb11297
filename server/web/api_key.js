/**
 * The API key of a server that wants one: asked for in a dialog, kept in this tab until it is closed, and never part of
 * an address.
 */

const STORED = "ultraflash.key";

/** @returns {string | null} */
export function storedKey() {
  return sessionStorage.getItem(STORED);
}

/** Headers for `fetch`; none while there is no key. @returns {Record<string, string>} */
export function keyHeaders() {
  const key = storedKey();
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

let asking = null;
let hasNone = false;

/**
 * Ask for the key, once for all who want it meanwhile.
 *
 * @param {string} message why the server did not let us in
 * @returns {Promise<boolean>} whether there is one now; false when whoever was asked has none, until the page is loaded
 *   again
 */
export function askForKey(message) {
  if (hasNone) {
    return Promise.resolve(false);
  }
  asking ??= ask(message).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(message) {
  const dialog = document.getElementById("key-dialog");
  const field = document.getElementById("key");
  document.getElementById("key-notice").textContent = storedKey() === null ? "" : message;
  sessionStorage.removeItem(STORED);
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const key = dialog.returnValue === "use" ? field.value.trim() : "";
      field.value = "";
      dialog.returnValue = "";
      if (key !== "") {
        sessionStorage.setItem(STORED, key);
      }
      hasNone = key === "";
      resolve(!hasNone);
    };
    // The page's policy forbids forms to go anywhere, this one included, though it would stay here.
    document.getElementById("key-form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("use");
    };
    document.getElementById("key-cancel").onclick = () => dialog.close();
  });
}
