// One connection: a request, and the frames of its answer. It ends by itself when it falls silent.

import { FrameReader } from "./frames.js";
import { CutError } from "./problems.js";

export class Connection {
  #abort = new AbortController();
  #outer;
  #idleMs;
  #onOuterAbort = () => this.#abort.abort(this.#outer.reason);

  /** `outer` is the caller's abort signal; `idleMs` how long the service may say nothing at all. */
  constructor(outer, idleMs) {
    this.#outer = outer;
    this.#idleMs = idleMs;
    this.openedAt = Date.now();
    outer.addEventListener("abort", this.#onOuterAbort);
    if (outer.aborted) this.#onOuterAbort();
  }

  /** Send the request. Raises CutError when no answer comes, the caller's reason when it was aborted. */
  async open(fetch, url, init) {
    this.response = await this.#watched(fetch(url, { ...init, signal: this.#abort.signal }));
    this.openedAt = Date.now();
    return this.response;
  }

  /** The frames, as many at once as have come. Returns at the answer's end; raises CutError when it breaks or falls silent. */
  async *frames() {
    const reader = this.response.body.getReader();
    const decoder = new TextDecoder();
    const frames = new FrameReader();
    try {
      for (;;) {
        const { done, value } = await this.#watched(reader.read());
        if (done) return;
        const complete = frames.take(decoder.decode(value, { stream: true }));
        if (complete.length) yield complete;
      }
    } finally {
      reader.cancel().catch(() => {}); // it may be broken already
    }
  }

  /** Let go of the socket; nothing waits for what still comes. */
  close() {
    this.#outer.removeEventListener("abort", this.#onOuterAbort);
    this.#abort.abort(new CutError("The connection was closed."));
  }

  /** Wait for the network, no longer than the line may be silent. Its time does not run while the reader is busy elsewhere. */
  async #watched(work) {
    let timer;
    let onAbort;
    const stopped = new Promise((_, reject) => {
      onAbort = () => reject(this.#abort.signal.reason);
      if (this.#abort.signal.aborted) onAbort();
      this.#abort.signal.addEventListener("abort", onAbort);
      timer = setTimeout(() => this.#abort.abort(new CutError(`Nothing came for ${this.#idleMs} ms.`)), this.#idleMs);
    });
    try {
      return await Promise.race([work, stopped]);
    } catch (error) {
      if (this.#outer.aborted) throw this.#outer.reason;
      throw error instanceof CutError ? error : new CutError("The connection broke.", { cause: error });
    } finally {
      clearTimeout(timer);
      this.#abort.signal.removeEventListener("abort", onAbort);
    }
  }
}
