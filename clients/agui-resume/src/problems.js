// What can go wrong, as errors that say who acts next.

/** The service refused the request. Asking again changes nothing, unless `retryable` says so. */
export class RefusedError extends Error {
  name = "RefusedError";

  /** `payload` is the answer's document (application/problem+json), or its text. */
  constructor({ status, code, message, requestId, retryable, payload, retryAfter }) {
    super(message);
    this.status = status;
    this.code = code;
    this.detail = message;
    this.requestId = requestId;
    this.retryable = retryable;
    this.payload = payload;
    this.retryAfter = retryAfter; // milliseconds, or null
  }
}

/** The service could not be reached, or not for long enough. The run, once begun, may still be going on. */
export class ConnectionLostError extends Error {
  name = "ConnectionLostError";
  code = "connection_lost";

  constructor(message, { attempts, cause } = {}) {
    super(message, { cause });
    this.attempts = attempts;
  }
}

/** One connection broke; another is tried. Never leaves this package. */
export class CutError extends Error {
  name = "CutError";
}

/** Read what a refusal says: its problem document, or what its status means. */
export async function refusalOf(response) {
  const text = await response.text().catch(() => "");
  const payload = asDocument(text);
  const problem = typeof payload === "object" ? payload : {};
  return new RefusedError({
    status: response.status,
    code: problem.code ?? `http_${response.status}`,
    message: problem.detail || problem.title || `The service answered with status ${response.status}.`,
    requestId: problem.request_id ?? response.headers.get("x-request-id") ?? "",
    retryable: problem.retryable ?? false,
    payload,
    retryAfter: retryAfterOf(response),
  });
}

const PASSING_STATUSES = new Set([408, 425, 502, 503, 504]);

/** Whether the same request may well be answered in a moment. */
export function isPassing(error) {
  if (!(error instanceof RefusedError)) return error instanceof CutError;
  if (error.code === "idempotency_conflict") return true; // the first attempt is being stored at this moment
  return PASSING_STATUSES.has(error.status) || (error.status === 429 && error.retryAfter !== null);
}

function asDocument(text) {
  try {
    return JSON.parse(text) ?? text;
  } catch {
    return text;
  }
}

/** `Retry-After` in milliseconds, given as seconds or as a date; null without one. */
function retryAfterOf(response) {
  const value = response.headers.get("retry-after")?.trim();
  if (!value) return null;
  const milliseconds = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(milliseconds) ? null : Math.max(0, milliseconds);
}
