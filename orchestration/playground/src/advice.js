// What a person can do about an error, by its code. The codes are those of docs/errors.md.

const ADVICE = {
  unauthenticated: "Sign in to the console with an account that may use the playground, then reload this page.",
  invalid_signature: "This service wants signed requests. The playground sends unsigned ones in debug mode only.",
  forbidden: "Reload the page from the service's own address.",
  thread_busy: "Wait for the run to end, or start a new thread.",
  run_exists: "Send the message again: it gets a new run.",
  body_too_large: "Shorten the message or start a new thread.",
  invalid_input: "Change the message and send it again.",
  unknown_agent: "Choose another agent, or switch one on in the console.",
  shutting_down: "The service is restarting. Send the message again in a moment.",
  overloaded: "The service has no room for another run at the moment. Try again shortly.",
  unavailable: "A part of the service is away, often the database. Try again shortly.",
  internal_error: "The details stand in the service's log under the request id.",
  model_unavailable: "The model could not be reached. Check OPENAI_BASE_URL, or try again.",
  model_rate_limited: "The model takes no more requests at the moment. Wait a little and try again.",
  model_timeout: "The model was too slow. Try again, or ask for less.",
  model_refused: "The provider refused the request. Check the agent's model name and OPENAI_API_KEY.",
  model_invalid_response: "The model answered in a form that could not be understood. Try again.",
  model_stream_interrupted: "The model's answer broke off. Try again.",
  model_content_filter: "The provider withheld the answer. Put the question differently.",
  model_context_too_long: "The conversation is too long for the model. Start a new thread.",
  budget_exceeded: "As much as may be used is used up. Wait until it renews.",
  run_abandoned: "The process that worked on this run ended. Send the message again.",
  stream_interrupted: "Only this connection ended; the run goes on. Follow it with the button below.",
  connection_lost: "The connection broke; the run may still go on. Follow it with the button below.",
  unreachable: "The service did not answer. Check that it is running, then try again.",
};

/** A sentence for people; empty when there is nothing to advise. */
export function adviceFor(code) {
  return ADVICE[code] ?? "";
}

/** Codes after which the run may still be going on, so that following it makes sense. */
export const RUN_MAY_GO_ON = new Set(["stream_interrupted", "connection_lost"]);
