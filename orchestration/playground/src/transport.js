// The way to the service: the AG-UI client on a connection that survives cuts, with a tap on the wire for the raw events.

import { HttpAgent } from "@ag-ui/client";

import { FrameReader } from "../../../clients/agui-resume/src/frames.js";
import { followRun, resumingFetch } from "../../../clients/agui-resume/src/index.js";
import { uuid } from "./identity.js";

/** A refusal or a broken way, before or during a stream. */
export class TransportError extends Error {
  constructor({ code, message, requestId = "" }) {
    super(message);
    this.code = code;
    this.requestId = requestId;
  }
}

/**
 * One thread with one agent. The listeners of each run: `onEvent(event)`, `onFrame({id, data, comment, at})`, and
 * `onReconnecting({attempt, delay})` and `onReconnected()` for a connection that is cut and made anew.
 */
export class ThreadConnection {
  constructor({ baseUrl, runUrl, connectUrl, headers, threadId }) {
    this.baseUrl = baseUrl;
    this.urls = { run: runUrl, connect: connectUrl };
    this.headers = headers;
    this.listeners = {};
    this.following = null;
    const resuming = resumingFetch({ ...this.reconnection(), baseUrl });
    this.agent = new HttpAgent({ url: runUrl, headers, threadId, fetch: async (url, init) => this.tapped(await resuming(url, init)) });
  }

  get threadId() {
    return this.agent.threadId;
  }

  /** Questions that the next run has to answer. */
  get openInterrupts() {
    return this.agent.pendingInterrupts ?? [];
  }

  /** Start a run: with a message, with answers to open questions (`resume`), or both. Resolves when its stream has ended. */
  async send({ runId, message, resume, ...listeners }) {
    if (message) this.agent.addMessage(message);
    await this.run({ runId, ...(resume?.length ? { resume } : {}) }, listeners);
  }

  /** The thread as it stands: its history in a snapshot, then the run that is going on. */
  async join(listeners) {
    this.agent.url = this.urls.connect;
    try {
      await this.run({ runId: uuid() }, listeners);
    } finally {
      this.agent.url = this.urls.run;
    }
  }

  async run(parameters, listeners) {
    this.listeners = listeners;
    const onEvent = ({ event }) => listeners.onEvent(event);
    try {
      await this.agent.runAgent({ tools: [], context: [], forwardedProps: {}, ...parameters }, { onEvent });
    } catch (error) {
      if (!this.wasAborted()) throw asTransportError(error);
    }
  }

  /** Read on in a run from after event `after`. */
  async follow({ runId, after, ...listeners }) {
    this.listeners = listeners;
    this.following = new AbortController();
    const startedAt = performance.now();
    const { baseUrl, headers } = this;
    const events = followRun({ ...this.reconnection(), baseUrl, headers, runId, after, signal: this.following.signal });
    try {
      for await (const { id, event } of events) {
        listeners.onFrame({ id, data: JSON.stringify(event), comment: null, at: performance.now() - startedAt });
        listeners.onEvent(event);
      }
    } catch (error) {
      if (!this.wasAborted()) throw asTransportError(error);
    }
  }

  /** Ask the service to stop the run; where it does not listen, only stop reading. */
  async stop(runId) {
    try {
      const target = `${this.baseUrl}/runs/${encodeURIComponent(runId)}/cancel`;
      const response = await fetch(target, { method: "POST", headers: this.headers });
      if (!response.ok) this.leave();
    } catch {
      this.leave();
    }
  }

  /** Stop reading. The run goes on without a reader. */
  leave() {
    this.agent.abortRun();
    this.following?.abort();
  }

  wasAborted() {
    return this.agent.abortController.signal.aborted || Boolean(this.following?.signal.aborted);
  }

  reconnection() {
    return {
      onReconnecting: (attempt) => this.listeners.onReconnecting?.(attempt),
      onReconnected: () => this.listeners.onReconnected?.(),
    };
  }

  /** The same answer, whose frames are shown to the listener on their way. */
  tapped(response) {
    if (!response.body) return response;
    const { onFrame } = this.listeners;
    const startedAt = performance.now();
    const reader = new FrameReader();
    const decoder = new TextDecoder();
    const tap = new TransformStream({
      transform(chunk, controller) {
        for (const frame of reader.take(decoder.decode(chunk, { stream: true }))) onFrame({ ...frame, at: performance.now() - startedAt });
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(tap), { status: response.status, headers: response.headers });
  }
}

function asTransportError(error) {
  const { code = "protocol_error", message, requestId } = error;
  return error instanceof TransportError ? error : new TransportError({ code: String(code), message, requestId });
}
