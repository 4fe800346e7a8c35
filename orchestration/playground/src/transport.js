// The way to the service: the AG-UI client, with a tap on the wire for the raw events.

import { HttpAgent } from "@ag-ui/client";

/** A refusal or a broken way, before or during a stream. */
export class TransportError extends Error {
  constructor({ code, message, requestId = "" }) {
    super(message);
    this.code = code;
    this.requestId = requestId;
  }
}

/** One thread with one agent. Events and frames go to the listeners of each run. */
export class ThreadConnection {
  constructor({ url, cancelUrl, followUrl, headers, threadId }) {
    this.urls = { run: url, cancel: cancelUrl, follow: followUrl };
    this.headers = headers;
    this.agent = new HttpAgent({ url, headers, threadId, fetch: (target, init) => this.fetch(target, init) });
    this.onFrame = () => {};
    this.following = null;
  }

  get threadId() {
    return this.agent.threadId;
  }

  get messages() {
    return this.agent.messages;
  }

  /** Send a message as a new run. Resolves when the stream ended; raises TransportError when it did not end as it should. */
  async send({ runId, message, onEvent, onFrame }) {
    this.onFrame = onFrame;
    this.agent.addMessage(message);
    const ends = new EndWatcher();
    const listener = ({ event }) => {
      ends.see(event);
      onEvent(event);
    };
    try {
      await this.agent.runAgent({ runId, tools: [], context: [], forwardedProps: {} }, { onEvent: listener });
    } catch (error) {
      if (!ends.seen && !this.wasAborted()) throw asTransportError(error);
    }
    if (!ends.seen && !this.wasAborted()) throw lost();
  }

  /** Read on in a run whose stream broke, from after event `after`. */
  async follow({ runId, after, onEvent, onFrame }) {
    this.following = new AbortController();
    this.onFrame = onFrame;
    const target = `${this.urls.follow.replace("{runId}", encodeURIComponent(runId))}?after=${after}&protocol=ag-ui`;
    const ends = new EndWatcher();
    const frames = new FrameReader((frame) => {
      onFrame(frame);
      if (!frame.data) return;
      const event = JSON.parse(frame.data);
      ends.see(event);
      onEvent(event);
    });
    try {
      const response = await fetch(target, { headers: this.headers, signal: this.following.signal });
      if (response.status === 204) return;
      if (!response.ok) throw await refusal(response);
      for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) frames.take(chunk);
    } catch (error) {
      if (!ends.seen && !this.wasAborted()) throw asTransportError(error);
    }
    if (!ends.seen && !this.wasAborted()) throw lost();
  }

  /** Ask the service to stop the run; where it does not listen, only stop reading. */
  async stop(runId) {
    try {
      const target = this.urls.cancel.replace("{runId}", encodeURIComponent(runId));
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

  async fetch(target, init) {
    const response = await fetch(target, init);
    if (!response.ok) throw await refusal(response);
    const frames = new FrameReader((frame) => this.onFrame(frame));
    const decoder = new TextDecoder();
    const tap = new TransformStream({
      transform(chunk, controller) {
        frames.take(decoder.decode(chunk, { stream: true }));
        controller.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(tap), { status: response.status, headers: response.headers });
  }
}

/** Notices the terminal event: a stream that ends without one was cut off, though the client takes it for success. */
class EndWatcher {
  seen = false;

  see(event) {
    if (event.type === "RUN_FINISHED" || event.type === "RUN_ERROR") this.seen = true;
  }
}

/** Cuts an event stream into frames `{id, data, comment, at}`; `at` is in milliseconds since the first byte was asked for. */
class FrameReader {
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.rest = "";
    this.startedAt = performance.now();
  }

  take(text) {
    const frames = (this.rest + text).split("\n\n");
    this.rest = frames.pop();
    for (const frame of frames) this.onFrame(this.read(frame));
  }

  read(frame) {
    const made = { id: "", data: "", comment: false, at: performance.now() - this.startedAt };
    for (const line of frame.split("\n")) {
      if (line.startsWith("id:")) made.id = line.slice(3).trim();
      else if (line.startsWith("data:")) made.data += line.slice(5).trimStart();
      else if (line.startsWith(":")) made.comment = true;
    }
    return made;
  }
}

async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  return new TransportError({
    code: problem.code ?? `http_${response.status}`,
    message: problem.detail ?? `The service answered with ${response.status}.`,
    requestId: problem.request_id ?? response.headers.get("x-request-id") ?? "",
  });
}

function asTransportError(error) {
  if (error instanceof TransportError) return error;
  if (error instanceof TypeError) return new TransportError({ code: "unreachable", message: "The service cannot be reached." });
  return new TransportError({ code: "protocol_error", message: error.message });
}

function lost() {
  return new TransportError({ code: "connection_lost", message: "The connection ended before the run did." });
}
