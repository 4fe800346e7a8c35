// One run's stream over as many connections as it takes.

import { Connection } from "./connection.js";
import { eventId, frameText } from "./frames.js";
import { Patience, pause } from "./patience.js";
import { CutError, isPassing, refusalOf, RefusedError } from "./problems.js";

const IDLE_MS = 45_000; // three heartbeats of the service
const STABLE_MS = 10_000; // a connection that held this long was a good one, even when the run said nothing

/**
 * Reads one run. The promise: each event once, by ascending number, without a gap; one terminal event at the end.
 *
 * `way` says how to ask, each as `{url, init}`: `begin()` first (a POST that starts a run or joins a thread; none to follow a run from
 * `after`), `resume(runId, after)` to go on, `cancel(runId)`. `joins`: `begin` opens in the middle of a run.
 */
export class ResumedRun {
  #way;
  #options;
  #signal;
  #patience;
  #runId;
  #last;
  #isAccepted; // the service knows the run, so it is followed and not begun again
  #requests = 0;
  #hasEnded = false;
  #gapAfter = null;
  #held = []; // frames of a joined thread that come before the first number

  constructor(way, options, signal, { runId = "", after = 0 } = {}) {
    this.#way = way;
    this.#options = options;
    this.#signal = signal;
    this.#patience = new Patience(options);
    this.#runId = runId;
    this.#last = after;
    this.#isAccepted = !way.begin;
  }

  /** The run's id as far as it is known; empty before. */
  get runId() {
    return this.#runId;
  }

  /** Connect for the first time, as often as it takes. Resolves with the response; raises what is final. */
  async open() {
    let connection;
    try {
      connection = await this.#connect();
    } catch (error) {
      connection = await this.#reconnect(error);
    }
    return connection;
  }

  /** Whole frames as `{id, event, data, comment}`, as many at once as have come. `connection` is what `open` gave. */
  async *frames(connection) {
    this.#hasEnded = connection.response.status === 204;
    while (!this.#hasEnded) {
      let cut = new CutError("The connection ended before the run did.");
      try {
        for await (const frames of connection.frames()) {
          const { admitted, isEnd, isCut } = this.#admit(frames);
          this.#hasEnded = isEnd;
          if (admitted.length) yield admitted;
          if (isEnd || isCut) break;
        }
      } catch (error) {
        if (this.#signal.aborted) throw this.#signal.reason;
        cut = error;
      } finally {
        connection.close();
      }
      if (this.#hasEnded) return;
      if (Date.now() - connection.openedAt >= STABLE_MS) this.#patience.restore();
      try {
        connection = await this.#reconnect(cut);
      } catch (error) {
        if (this.#signal.aborted) throw this.#signal.reason;
        yield [errorFrame(error.code, error.message)];
        return;
      }
      if (connection.response.status === 204) {
        yield [errorFrame("end_not_seen", "The run has ended, and its last events are no longer there.")];
        return;
      }
    }
  }

  /** Ask the service to stop the run; nobody waits for the answer. */
  cancel() {
    if (!this.#runId || this.#hasEnded) return;
    const { url, init } = this.#way.cancel(this.#runId);
    this.#headers(init).then((headers) => this.#options.fetch(url, { ...init, headers, keepalive: true })).catch(() => {});
  }

  // --- connections

  async #reconnect(error) {
    let cause = error;
    for (;;) {
      if (this.#signal.aborted) throw this.#signal.reason;
      if (!isPassing(cause)) throw cause;
      const delay = this.#patience.next(cause);
      const attempt = this.#patience.attempts;
      this.#options.onReconnecting?.({ attempt, delay, runId: this.#runId, cause });
      await pause(delay, this.#signal, !cause.retryAfter);
      try {
        const connection = await this.#connect();
        this.#options.onReconnected?.({ attempt, runId: this.#runId });
        return connection;
      } catch (failure) {
        cause = failure;
      }
    }
  }

  async #connect() {
    try {
      return await this.#request();
    } catch (error) {
      // A service without idempotency keys says so about the run of our own first attempt.
      const isOurs = error instanceof RefusedError && error.code === "run_exists" && this.#requests > 1 && this.#runId;
      if (!isOurs || this.#isAccepted) throw error;
      this.#isAccepted = true;
      return await this.#request();
    }
  }

  async #request() {
    const { url, init } = this.#isAccepted ? this.#way.resume(this.#runId, this.#last) : this.#way.begin();
    this.#held = [];
    const connection = new Connection(this.#signal, this.#options.idleTimeoutMs ?? IDLE_MS);
    this.#requests += 1;
    try {
      const headers = await this.#headers(init);
      const response = await connection.open(this.#options.fetch, url, { ...init, headers });
      if (!response.ok) throw await refusalOf(response);
      this.#runId = response.headers.get("x-run-id") || this.#runId;
      if (response.status === 204 || isEventStream(response)) {
        this.#isAccepted ||= !this.#way.joins && this.#runId !== "";
        return connection;
      }
      return await this.#withoutStream(response);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** The service took a run to do it in the background: it is followed. Anything else is not the service. */
  async #withoutStream(response) {
    if (response.status !== 202 || !this.#runId || this.#isAccepted) {
      const type = response.headers.get("content-type") ?? "nothing";
      throw new RefusedError({
        status: response.status, code: "not_a_stream", message: `The answer is no event stream but ${type}.`,
        requestId: response.headers.get("x-request-id") ?? "", retryable: false, payload: "", retryAfter: null,
      });
    }
    this.#isAccepted = true;
    return await this.#request();
  }

  /** The request's own headers and those of the options over them, asked for anew each time: a token may have run out. */
  async #headers(init) {
    const headers = new Headers(init.headers);
    const { headers: given = {} } = this.#options;
    for (const [name, value] of new Headers(typeof given === "function" ? await given() : given)) headers.set(name, value);
    return headers;
  }

  // --- frames

  #admit(frames) {
    const seen = { admitted: [], isEnd: false, isCut: false };
    for (const frame of frames) {
      this.#admitOne(frame, seen);
      if (seen.isEnd || seen.isCut) break;
    }
    return seen;
  }

  #admitOne(frame, seen) {
    const id = eventId(frame.id);
    const event = eventOf(frame);
    if (frame.data !== null && !event) return; // something on the way speaks for itself; it is no event of the run
    if (id && !event) {
      this.#isAt(id);
      this.#handOn(frame, seen);
      return;
    }
    if (id && this.#isOld(id)) return;
    if (isInterruption(event, id) || (id && this.#isAfterGap(id))) {
      seen.isCut = true;
      return;
    }
    if (id) this.#isAt(id);
    if (event?.type === "RUN_STARTED" && !this.#runId) this.#runId = event.runId;
    seen.isEnd = event?.type === "RUN_FINISHED" || event?.type === "RUN_ERROR";
    this.#handOn(frame, seen);
  }

  /**
   * What a joined thread begins with (history, and what is open) has no numbers. It is handed on when a number follows, the end, or
   * a pause: a connection that breaks before is made anew, and begins with the same again.
   */
  #handOn(frame, seen) {
    this.#held.push(frame);
    if (!this.#isAccepted && !seen.isEnd && frame.data !== null) return;
    seen.admitted.push(...this.#held);
    this.#held = [];
  }

  /** All up to this number is known now. An id without an event says so of the history that a joined thread begins with. */
  #isAt({ runId, number }) {
    this.#last = runId === this.#runId ? Math.max(number, this.#last) : number;
    this.#runId = runId;
    this.#isAccepted = true;
    this.#patience.restore();
  }

  #isOld({ runId, number }) {
    return runId === this.#runId && number <= this.#last;
  }

  /** Whether numbers are missing before this one. The log is asked for them once; what it does not have either was never sent. */
  #isAfterGap({ runId, number }) {
    const startsAnywhere = this.#way.joins && !this.#isAccepted;
    if (startsAnywhere || runId !== this.#runId || number === this.#last + 1 || this.#gapAfter === this.#last) return false;
    this.#gapAfter = this.#last;
    return true;
  }
}

/** The frame's event; null when it carries none. */
function eventOf({ data }) {
  if (data === null) return null;
  try {
    const event = JSON.parse(data);
    return typeof event?.type === "string" ? event : null;
  } catch {
    return null;
  }
}

/** The service ends this connection, not the run. */
function isInterruption(event, id) {
  return event?.type === "RUN_ERROR" && event.code === "stream_interrupted" && !id;
}

function errorFrame(code, message) {
  const event = { type: "RUN_ERROR", message, code: code ?? "connection_lost" };
  return { id: "", event: "", data: JSON.stringify(event), comment: null };
}

function isEventStream(response) {
  return (response.headers.get("content-type") ?? "").toLowerCase().startsWith("text/event-stream");
}

/** Frames as the bytes of an event stream. */
export function encoded(frames) {
  return new TextEncoder().encode(frames.map(frameText).join(""));
}
