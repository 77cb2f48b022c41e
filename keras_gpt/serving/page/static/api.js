// The server's API: requests, streams, errors, and the key.

const KEY = "keras_gpt.key";

/** A request that was not answered. Status 0 is a connection that broke off. */
export class ApiError extends Error {
  constructor(status, error = {}, seconds = null) {
    super(error.message ?? "");
    this.status = status;
    this.code = error.code ?? null;
    this.seconds = seconds;
  }
}

export function keyIsThere() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Keep a key for this tab; none where it is empty. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

async function ask(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0);
  }
  if (!response.ok) {
    const found = await response.json().catch(() => ({}));
    throw new ApiError(response.status, found.error, response.headers.get("retry-after"));
  }
  return response;
}

/** Give the whole answer to a request; to a GET where there is no body. */
export async function fetchJson(path, body, signal) {
  return (await ask(path, body, signal)).json();
}

/** Give the objects of a stream of server-sent events as they come. */
export async function* streamed(path, body, signal) {
  const response = await ask(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  while (true) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new ApiError(0);
    }
    if (piece.done) throw new ApiError(0); // a whole stream ends with [DONE]
    buffer += piece.value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new ApiError(500, found.error);
      yield found;
    }
  }
}

/** Say whether the server takes requests; null where nobody answers. */
export async function isReady() {
  try {
    return (await fetch("health/ready", { cache: "no-store" })).ok;
  } catch {
    return null;
  }
}
