/** Requests to the REST routes, and what the server says when it refuses. */

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
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  let response;
  try {
    response = await fetch(path, { method, cache: "no-store", ...sent });
  } catch {
    throw new Refusal("The server cannot be reached.", { status: 0, code: "unreachable" });
  }
  if (!response.ok) {
    throw await refusalOf(response);
  }
  return response.json();
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
