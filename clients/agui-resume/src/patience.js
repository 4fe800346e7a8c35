// How long to go on trying: exponential back-off with jitter, and an end to it.

import { ConnectionLostError } from "./problems.js";

export const PATIENCE = {
  maxAttempts: 12, // in a row, without anything new between
  maxElapsedMs: 180_000, // from the break on, without anything new between
  initialDelayMs: 400,
  maxDelayMs: 15_000,
};

/** Counts attempts since the last success and says how long to wait before the next. */
export class Patience {
  #limits;
  #attempts = 0;
  #since = null;

  constructor(limits = {}) {
    this.#limits = { ...PATIENCE, ...withoutUndefined(limits) };
  }

  get attempts() {
    return this.#attempts;
  }

  /** Something new came: trying starts from the beginning the next time. */
  restore() {
    this.#attempts = 0;
    this.#since = null;
  }

  /** Milliseconds to wait before the next attempt; raises ConnectionLostError when it is time to give up. */
  next(cause) {
    const { maxAttempts, maxElapsedMs, initialDelayMs, maxDelayMs } = this.#limits;
    this.#since ??= Date.now();
    const ceiling = Math.min(maxDelayMs, initialDelayMs * 2 ** this.#attempts);
    const delay = Math.max(cause?.retryAfter ?? 0, ceiling * (0.5 + Math.random() / 2));
    this.#attempts += 1;
    if (this.#attempts <= maxAttempts && Date.now() - this.#since + delay <= maxElapsedMs) return Math.round(delay);
    throw new ConnectionLostError("The connection was lost and could not be restored.", { attempts: this.#attempts - 1, cause });
  }
}

/** Wait; shorter when the browser says that it is online again. Raises the signal's reason when it is aborted. */
export function pause(milliseconds, signal, wakesOnline) {
  return new Promise((resolve, reject) => {
    const done = (act) => () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      globalThis.removeEventListener?.("online", onOnline);
      act();
    };
    const onAbort = done(() => reject(signal.reason));
    const onOnline = done(resolve);
    const timer = setTimeout(done(resolve), milliseconds);
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort);
    if (wakesOnline) globalThis.addEventListener?.("online", onOnline);
  });
}

function withoutUndefined(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
