// Follow AG-UI runs over cut connections. See README.md.

import { encoded, ResumedRun } from "./resumed_run.js";
import { baseOf, following, inputOf, posting, randomId } from "./ways.js";

export { ConnectionLostError, RefusedError } from "./problems.js";

/**
 * A `fetch` for `HttpAgent`: a POST that is answered with a run's events gives one gapless stream of them, however often the
 * connection is cut. Other requests pass unchanged.
 */
export function resumingFetch(options = {}) {
  const settings = withFetch(options);
  return async (input, init = {}) => {
    const url = String(input);
    if ((init.method ?? "GET").toUpperCase() !== "POST") return settings.fetch(url, init);
    const way = posting(url, init, settings.baseUrl ?? baseOf(url));
    const stop = linked(init.signal);
    const run = new ResumedRun(way, settings, stop.signal, { runId: way.joins ? "" : (inputOf(init).runId ?? "") });
    if (settings.cancelOnAbort) init.signal?.addEventListener("abort", () => run.cancel(), { once: true });
    const connection = await run.open();
    return asResponse(connection, run.frames(connection), stop);
  };
}

/**
 * The events of a run from after event number `after`, to its end: an async iterable of `{id, event}`. Leaving the loop stops the
 * reading, never the run.
 */
export async function* followRun({ runId, after = 0, protocolVersion = "1.0", signal, ...options }) {
  const settings = withFetch(options);
  yield* events(following(required(settings), protocolVersion), settings, signal, { runId, after });
}

/**
 * The events of a thread as it stands: its history in a snapshot, then the run that is going on, to its end. An async iterable of
 * `{id, event}`, like `followRun`.
 */
export async function* joinThread({ threadId, agentId, protocolVersion = "1.0", signal, ...options }) {
  const settings = withFetch(options);
  const baseUrl = required(settings);
  const input = {
    threadId, runId: randomId(), protocolVersion, state: {}, messages: [], tools: [], context: [], forwardedProps: {},
  };
  const init = {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(input),
  };
  yield* events(posting(`${baseUrl}/agent/${encodeURIComponent(agentId)}/connect`, init, baseUrl), settings, signal);
}

async function* events(way, settings, signal, from) {
  const stop = linked(signal);
  const run = new ResumedRun(way, settings, stop.signal, from);
  if (settings.cancelOnAbort) signal?.addEventListener("abort", () => run.cancel(), { once: true });
  try {
    for await (const frames of run.frames(await run.open())) {
      for (const { id, data } of frames) if (data !== null) yield { id, event: JSON.parse(data) };
    }
  } finally {
    stop.now();
  }
}

/** The frames as the body of an answer; who cancels the body stops the reading. */
function asResponse({ response }, frames, stop) {
  if (response.status === 204) return response;
  const body = new ReadableStream({
    async pull(controller) {
      const { done, value } = await frames.next();
      if (done) controller.close();
      else controller.enqueue(encoded(value));
    },
    async cancel() {
      stop.now();
      await frames.return().catch(() => {}); // the reason is the reader's own
    },
  });
  return new Response(body, { status: 200, headers: response.headers });
}

/** A signal of our own that also follows the caller's. */
function linked(signal) {
  const controller = new AbortController();
  const follow = () => controller.abort(signal.reason);
  signal?.addEventListener("abort", follow, { once: true });
  if (signal?.aborted) follow();
  const now = () => {
    signal?.removeEventListener("abort", follow);
    controller.abort(new DOMException("Reading was stopped.", "AbortError"));
  };
  return { signal: controller.signal, now };
}

function withFetch(options) {
  const baseUrl = options.baseUrl?.replace(/\/+$/, "");
  return { ...options, baseUrl, fetch: options.fetch ?? ((url, init) => globalThis.fetch(url, init)) };
}

function required({ baseUrl }) {
  if (baseUrl === undefined) throw new TypeError("baseUrl is needed: the service's address up to and with /ag-ui");
  return baseUrl;
}
