/** One reconnection: the how-manieth in a row, and how long it waits. */
export interface Reconnecting {
  /** 1 for the first attempt after a break. */
  attempt: number;
  /** Milliseconds until the attempt is made. */
  delay: number;
  /** Empty while the service has not yet named the run. */
  runId: string;
  /** Why the connection ended. */
  cause: Error;
}

export interface Reconnected {
  attempt: number;
  runId: string;
}

export interface ResumeOptions {
  /**
   * The address under which the service's `runs/`, `agent/` and `threads` stand, such as `https://api.example.org/ag-ui`.
   * `resumingFetch` reads it off the agent's URL when that ends in `/events`, `/agent/{id}/run` or `/agent/{id}/connect`.
   */
  baseUrl?: string;
  /** Headers for every request, over the agent's own. A function is asked before each request: give a fresh token. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** What requests are made with; the global `fetch` by default. */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /** Attempts in a row without anything new before giving up. 12. */
  maxAttempts?: number;
  /** Milliseconds since the break without anything new before giving up. 180,000. */
  maxElapsedMs?: number;
  /** Milliseconds before the first attempt; doubles with each, with jitter. 400. */
  initialDelayMs?: number;
  /** Milliseconds between attempts at most, unless Retry-After asks for more. 15,000. */
  maxDelayMs?: number;
  /** Milliseconds without a byte after which a connection counts as cut; keep it above the service's heartbeat. 45,000. */
  idleTimeoutMs?: number;
  /** Whether aborting also stops the run. Without it an abort only stops reading, and the run goes on. */
  cancelOnAbort?: boolean;
  onReconnecting?: (attempt: Reconnecting) => void;
  onReconnected?: (success: Reconnected) => void;
}

/** An AG-UI event and its id, `{runId}.{number}`; events that only describe the state of things have no id. */
export interface NumberedEvent {
  id: string;
  event: { type: string; [field: string]: unknown };
}

/**
 * A `fetch` for `new HttpAgent({ url, fetch: resumingFetch() })`. A POST answered with a run's events gives one stream of them: each
 * event once, in order, with one terminal event. It rejects with RefusedError or ConnectionLostError when no stream opens at all; a
 * stream that opened and cannot be gone on with ends in RUN_ERROR with that error's `code`.
 */
export function resumingFetch(options?: ResumeOptions): (input: string | URL, init?: RequestInit) => Promise<Response>;

/** The events of a run from after number `after` (0: from the beginning) to its end. Nothing when there is none. */
export function followRun(
  options: ResumeOptions & { baseUrl: string; runId: string; after?: number; protocolVersion?: string; signal?: AbortSignal },
): AsyncGenerator<NumberedEvent, void, undefined>;

/** The history of a thread in a MESSAGES_SNAPSHOT, then the run that is going on, to its end. */
export function joinThread(
  options: ResumeOptions & { baseUrl: string; threadId: string; agentId: string; protocolVersion?: string; signal?: AbortSignal },
): AsyncGenerator<NumberedEvent, void, undefined>;

/** The service refused the request; the same one fails again unless `retryable`. */
export class RefusedError extends Error {
  readonly status: number;
  /** One of the service's error codes, or `http_{status}`. */
  readonly code: string;
  readonly detail: string;
  readonly requestId: string;
  readonly retryable: boolean;
  /** The problem document, or the answer's text. */
  readonly payload: unknown;
  /** Milliseconds. */
  readonly retryAfter: number | null;
}

/** The service could not be reached for as long as the options allow. */
export class ConnectionLostError extends Error {
  readonly code: "connection_lost";
  readonly attempts: number;
}
