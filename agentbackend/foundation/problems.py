"""Errors that a caller sees: one table of codes for problem+json answers (RFC 9457) and for ERROR/RUN_ERROR events.

docs/errors.md lists the same table for people; a test keeps the two alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import orjson


class ActsNext(StrEnum):
    """Who can do something about an error."""

    CALLER = "caller"
    OPERATOR = "operator"
    RETRY = "retry"
    MODEL = "model"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A row of the table: HTTP status before a stream, a title that never changes, who acts next."""

    status: int
    title: str
    acts_next: ActsNext

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without a change."""
        return self.acts_next is ActsNext.RETRY


PROBLEMS: dict[str, ProblemKind] = {
    # before a stream
    "unauthenticated": ProblemKind(401, "The caller could not be identified", ActsNext.CALLER),
    "invalid_user_id": ProblemKind(401, "X-Supabase-User-ID is missing or not a lower-case UUID", ActsNext.CALLER),
    "invalid_signature": ProblemKind(401, "The gateway signature is missing or wrong", ActsNext.OPERATOR),
    "stale_signature": ProblemKind(401, "The gateway signature is too old or from the future", ActsNext.CALLER),
    "replayed_request": ProblemKind(401, "This signed request was already used", ActsNext.CALLER),
    "invalid_token": ProblemKind(401, "The access token is not valid for this request", ActsNext.CALLER),
    "token_keys_unavailable": ProblemKind(503, "The keys that verify access tokens cannot be fetched", ActsNext.RETRY),
    "malformed_headers": ProblemKind(400, "Identity headers are duplicated or misspelt", ActsNext.CALLER),
    "malformed_request": ProblemKind(400, "This is not an HTTP request that can be read", ActsNext.CALLER),
    "uri_too_long": ProblemKind(414, "The address with its query is too long", ActsNext.CALLER),
    "headers_too_large": ProblemKind(431, "The request headers are too large", ActsNext.CALLER),
    "invalid_host": ProblemKind(400, "The Host header is not one that this service answers to", ActsNext.CALLER),
    "forbidden": ProblemKind(403, "The caller may not do this", ActsNext.CALLER),
    "not_found": ProblemKind(404, "Nothing is known under this address for this caller", ActsNext.CALLER),
    "method_not_allowed": ProblemKind(405, "This address does not take this method", ActsNext.CALLER),
    "thread_busy": ProblemKind(409, "A run is already going on in this thread", ActsNext.RETRY),
    "run_exists": ProblemKind(409, "This run id was already used", ActsNext.CALLER),
    "idempotency_key_reused": ProblemKind(422, "This key was first used for another request", ActsNext.CALLER),
    "idempotency_conflict": ProblemKind(409, "A request with this key is being stored at the moment", ActsNext.RETRY),
    "approval_by_someone_else": ProblemKind(403, "Somebody else than the asker must decide this", ActsNext.PERSON),
    "already_decided": ProblemKind(409, "This question was answered otherwise already", ActsNext.CALLER),
    "approval_expired": ProblemKind(410, "This question was not answered in time", ActsNext.CALLER),
    "events_expired": ProblemKind(410, "The events of this run are no longer kept", ActsNext.CALLER),
    "body_too_large": ProblemKind(413, "The request body is too large", ActsNext.CALLER),
    "unsupported_media_type": ProblemKind(415, "The request body must be application/json", ActsNext.CALLER),
    "invalid_json": ProblemKind(400, "The request body is not JSON", ActsNext.CALLER),
    "invalid_input": ProblemKind(422, "The request does not have the expected form", ActsNext.CALLER),
    "invalid_header": ProblemKind(400, "A request header has no usable value", ActsNext.CALLER),
    "unknown_agent": ProblemKind(404, "There is no such agent, or it is switched off", ActsNext.CALLER),
    "budget_exceeded": ProblemKind(429, "A budget of this caller or agent is used up", ActsNext.RETRY),
    "shutting_down": ProblemKind(503, "This process is shutting down", ActsNext.RETRY),
    "overloaded": ProblemKind(503, "The service has no capacity left for another run", ActsNext.RETRY),
    "unavailable": ProblemKind(503, "A part that the service needs is not available", ActsNext.RETRY),
    "internal_error": ProblemKind(500, "The service failed to handle the request", ActsNext.OPERATOR),
    # on a stream
    "model_unavailable": ProblemKind(502, "The model could not be reached", ActsNext.RETRY),
    "model_rate_limited": ProblemKind(429, "The model takes no more requests at the moment", ActsNext.RETRY),
    "model_timeout": ProblemKind(504, "The model did not answer in time", ActsNext.RETRY),
    "model_refused": ProblemKind(502, "The model's provider refused the request", ActsNext.OPERATOR),
    "model_invalid_response": ProblemKind(502, "The model's answer could not be understood", ActsNext.RETRY),
    "invalid_structured_answer": ProblemKind(
        502, "The model gave no answer of the form that its agent must answer in", ActsNext.OPERATOR
    ),
    "model_stream_interrupted": ProblemKind(502, "The model's answer ended early", ActsNext.RETRY),
    "model_content_filter": ProblemKind(422, "The model's provider withheld the answer", ActsNext.CALLER),
    "model_context_too_long": ProblemKind(422, "The conversation is too long for the model", ActsNext.CALLER),
    "run_abandoned": ProblemKind(503, "The process that held this run ended", ActsNext.RETRY),
    "stream_interrupted": ProblemKind(503, "This connection ends here; the run goes on", ActsNext.RETRY),
}


class Problem(Exception):
    """A refusal that the caller is told about.

    Raised before a stream opens it becomes an `application/problem+json` answer; within a run it becomes the run's error
    event. `detail` is written for the caller: it holds no secret and nothing of the service's inside.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        field: str = "",
        extra: dict[str, str] | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.code = code
        self.kind = PROBLEMS[code]
        self.detail = detail or self.kind.title + "."
        self.field = field
        self.extra = extra or {}
        self.headers = headers
        super().__init__(f"{code}: {self.detail}")

    def body(self, request_id: str = "") -> bytes:
        """The RFC 9457 document, as bytes."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.kind.retryable,
            **self.extra,
        }
        if self.field:
            document["field"] = self.field
        if request_id:
            document["request_id"] = request_id
        return orjson.dumps(document)
