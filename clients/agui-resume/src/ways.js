// How the service is asked: addresses and requests.

/** The address under which `runs/`, `agent/` and `threads` stand, from the address of a run's POST. */
export function baseOf(url) {
  const path = url.split(/[?#]/, 1)[0];
  const [, base] = /^(.*)\/(?:events|agent\/[^/]+\/(?:run|connect))$/.exec(path) ?? [];
  if (base === undefined) throw new TypeError(`Set baseUrl: it cannot be read off ${url}`);
  return base;
}

/** Start a run by POST, or join a thread. `init` is the request as the application made it. */
export function posting(url, init, baseUrl) {
  const joins = /\/connect$/.test(url.split(/[?#]/, 1)[0]);
  const headers = new Headers(init.headers);
  if (!joins && !headers.has("Idempotency-Key")) headers.set("Idempotency-Key", randomId());
  const first = { ...init, headers };
  const { signal: _, ...sent } = first;
  return { ...following(baseUrl, inputOf(init).protocolVersion, init), joins, begin: () => ({ url, init: sent }) };
}

/** Follow a run, `{url, init}` for each connection. A client that declares no protocol version is sent the form before 1.0. */
export function following(baseUrl, protocolVersion, init = {}) {
  const headers = new Headers(init.headers);
  for (const name of ["Content-Type", "Content-Length", "Idempotency-Key"]) headers.delete(name);
  const { signal: _, body: __, ...shared } = { ...init, headers };
  const run = (runId) => `${baseUrl}/runs/${encodeURIComponent(runId)}`;
  return {
    joins: false,
    resume: (runId, after) => {
      const asked = new Headers(headers);
      asked.set("Accept", "text/event-stream");
      asked.set("Last-Event-ID", `${runId}.${after}`);
      const url = `${run(runId)}/events?protocolVersion=${encodeURIComponent(protocolVersion ?? "0")}`;
      return { url, init: { ...shared, headers: asked, method: "GET", cache: "no-store" } };
    },
    cancel: (runId) => ({ url: `${run(runId)}/cancel`, init: { ...shared, method: "POST" } }),
  };
}

/** The ids and the version in a run's input; empty when the body is not JSON text. */
export function inputOf({ body }) {
  try {
    return JSON.parse(body) ?? {};
  } catch {
    return {};
  }
}

/** A random version 4 UUID; `crypto.randomUUID` needs a secure context, this does not. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
