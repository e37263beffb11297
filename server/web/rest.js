/** Requests to the REST routes, and what the server says when it refuses. */

import { askForKey, keyHeaders, storedKey } from "./api_key.js";

const NO_KEY = 401;

/** A refusal, in the server's own words. */
export class Refusal extends Error {
  /** @param {string} message @param {{status: number, code: string}} what status is 0 without an answer */
  constructor(message, { status, code }) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * @param {string} path
 * @param {{method?: string, body?: object}} [options]
 * @returns {Promise<object>} the answer
 * @throws {Refusal}
 */
export async function ask(path, { method = "GET", body } = {}) {
  const kind = body === undefined ? {} : { "content-type": "application/json" };
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { method, cache: "no-store", headers: { ...kind, ...keyHeaders() }, ...sent });
  } catch {
    throw new Refusal("The server cannot be reached.", { status: 0, code: "unreachable" });
  }
  if (!response.ok) {
    const refusal = await refusalOf(response);
    if (refusal.status === NO_KEY && (await askForKey(refusal.message))) {
      return ask(path, { method, body });
    }
    throw refusal;
  }
  return response.json();
}

/**
 * An address for what cannot send a key: a video element, a download, an event source.
 *
 * @param {string} path @returns {Promise<string>}
 * @throws {Refusal}
 */
export async function addressOf(path) {
  return storedKey() === null ? path : (await ask("/v1/tickets", { method: "POST", body: { path } })).url;
}

/** Something between us and the server, a proxy say, may answer with anything. */
async function refusalOf(response) {
  const { status } = response;
  const isJson = response.headers.get("content-type")?.includes("json");
  const { error } = isJson ? await response.json() : {};
  return new Refusal(error?.message ?? `The server answered with status ${status}.`, {
    status,
    code: error?.code ?? "unknown",
  });
}
