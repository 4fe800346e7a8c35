"""What the model is told when an endpoint did not do what was asked, and what only the operator is told (in the log).

The model learns whether the same call can help. After a failure with an unknown effect it is told so only where a repeated call
does no harm: that is what the tool's side effects say.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpx

from agentbackend.foundation.outbound import OutboundError, OutboundRefusedError, OutboundTooLargeError
from tools.calls import FailureKind, SideEffects
from tools.http_endpoint.answer import UnusableAnswerError
from tools.http_endpoint.settings import EndpointSettings
from tools.invocation import ToolError, ToolInvocation

logger = logging.getLogger(__name__)

_OPERATOR = "An operator of this service can look into it."
_UNKNOWN_EFFECT = "The call may have taken effect all the same; do not repeat it unasked."
_NOT_DONE = frozenset({425, 429, 503})  # the service says that it has done nothing, and that it will later
_MAY_PASS = frozenset({408, 500, 502, 504})
_FOR_OPERATORS = frozenset({401, 402, 403, 405, 406, 407, 415, 501, 505})
_LONGEST_WAIT = 24 * 3600.0


def status_failure(
    response: httpx.Response, said: str, endpoint: EndpointSettings, invocation: ToolInvocation
) -> ToolError:
    """The error for an answer whose status is no success; `said` is what the service says of it."""
    status = response.status_code
    told = f" It says: {said}" if said else ""
    if 300 <= status < 400:
        _log(endpoint, invocation, "redirect", status=status)
        return ToolError(
            f"The service behind {invocation.tool} has moved, and this tool does not follow it. {_OPERATOR}"
        )
    if status in _NOT_DONE:
        return _busy(response, status, told, invocation)
    if status in _MAY_PASS:
        _log(endpoint, invocation, "status", status=status)
        kind = FailureKind.TIMEOUT if status in (408, 504) else FailureKind.UPSTREAM_ERROR
        return _may_pass(
            f"The service behind {invocation.tool} failed ({status}).{told}", invocation, response, kind=kind
        )
    if status in _FOR_OPERATORS or status > 500:
        _log(endpoint, invocation, "status", status=status)
        kind = FailureKind.REFUSED if status in (401, 402, 403, 407) else FailureKind.UPSTREAM_ERROR
        return ToolError(f"{_refusal(status, endpoint, invocation)}{told} {_OPERATOR}", kind=kind)
    if status in (404, 410):
        return ToolError(
            f"The service behind {invocation.tool} found nothing there ({status}).{told} Check the arguments.",
            kind=FailureKind.NOT_FOUND,
        )
    return ToolError(
        f"The service behind {invocation.tool} refused the request ({status}).{told} Other arguments may help.",
        kind=FailureKind.BAD_ARGUMENTS,
    )


def exception_failure(error: Exception, endpoint: EndpointSettings, invocation: ToolInvocation) -> ToolError:
    """The error for a request that got no answer, or one that cannot be used."""
    service = f"The service behind {invocation.tool}"
    if isinstance(error, UnusableAnswerError):
        _log(endpoint, invocation, "answer", note=error.note)
        return ToolError(
            f"{service} answered, but not with what this tool can use. {error.message} {_effect(invocation)}".rstrip()
        )
    if isinstance(error, OutboundTooLargeError):
        _log(endpoint, invocation, "too_large", note=str(error))
        return ToolError(f"{service} sent more than this tool reads. Ask for less. {_effect(invocation)}".rstrip())
    if isinstance(error, OutboundError):
        return _refused(error, endpoint, invocation)
    if isinstance(error, httpx.ConnectError) and _is_tls(error):
        _log(endpoint, invocation, "tls", note=str(error))
        return ToolError(f"No secure connection to the service behind {invocation.tool} is possible. {_OPERATOR}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        _log(endpoint, invocation, "connect", note=str(error) or type(error).__name__)
        return ToolError(
            f"{service} cannot be reached at the moment. Try again later.", retryable=True, kind=FailureKind.UNAVAILABLE
        )
    if isinstance(error, httpx.TimeoutException):
        _log(endpoint, invocation, "timeout", note=type(error).__name__)
        return _may_pass(f"{service} did not answer in time.", invocation, kind=FailureKind.TIMEOUT)
    _log(endpoint, invocation, "broken", note=type(error).__name__)  # its text may repeat what was sent
    return _may_pass(f"{service} ended the connection before it had answered.", invocation)


def retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait (RFC 9110, 10.2.3); 0 when it asks for nothing that can be read."""
    text = str(response.headers.get("retry-after", "")).strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), _LONGEST_WAIT)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _busy(response: httpx.Response, status: int, told: str, invocation: ToolInvocation) -> ToolError:
    seconds = retry_after(response)
    when = f"in {math.ceil(seconds)} seconds" if seconds else "in a while"
    what = "takes no more calls for the moment" if status == 429 else "is not available for the moment"
    message = f"The service behind {invocation.tool} {what} ({status}).{told} Try again {when}."
    kind = FailureKind.RATE_LIMITED if status == 429 else FailureKind.UNAVAILABLE
    return ToolError(message, retryable=True, retry_after_seconds=seconds, kind=kind)


def _may_pass(
    message: str,
    invocation: ToolInvocation,
    response: httpx.Response | None = None,
    *,
    kind: FailureKind = FailureKind.UPSTREAM_ERROR,
) -> ToolError:
    """An error after which nobody knows what the call did."""
    if invocation.side_effects is SideEffects.UNSAFE:
        return ToolError(f"{message} {_UNKNOWN_EFFECT}", kind=kind)
    seconds = retry_after(response) if response is not None else 0.0
    return ToolError(f"{message} Try again in a moment.", retryable=True, retry_after_seconds=seconds, kind=kind)


def _effect(invocation: ToolInvocation) -> str:
    """After an answer of success that could not be read."""
    return _UNKNOWN_EFFECT if invocation.side_effects is SideEffects.UNSAFE else ""


def _refusal(status: int, endpoint: EndpointSettings, invocation: ToolInvocation) -> str:
    if status in (401, 403, 407) and endpoint.credentials:
        return f"The service behind {invocation.tool} did not accept this service's credentials, or not for this ({status})."
    return f"The service behind {invocation.tool} refused the request as the tool is set up ({status})."


def _refused(error: OutboundError, endpoint: EndpointSettings, invocation: ToolInvocation) -> ToolError:
    _log(endpoint, invocation, "refused", note=str(error))
    service = f"The service behind {invocation.tool}"
    if isinstance(error, OutboundRefusedError):
        return ToolError(
            f"{service} may not be used from here: its address or its answer is refused. {_OPERATOR}",
            kind=FailureKind.UNAVAILABLE,
        )
    return ToolError(f"{service} did not answer in time. {_effect(invocation)}".rstrip(), kind=FailureKind.TIMEOUT)


def _is_tls(error: BaseException) -> bool:
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or "certificate" in str(error).lower()


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _log(
    endpoint: EndpointSettings, invocation: ToolInvocation, reason: str, *, status: int = 0, note: str = ""
) -> None:
    """For the operator: which tool, which host, what happened. No path and no query, they hold arguments."""
    logger.warning(
        "an HTTP tool did not get what it asked for",
        extra={
            "tool": invocation.tool,
            "version": invocation.version,
            "host": endpoint.url.origin.host,
            "uses": [placed.credential for placed in endpoint.credentials],
            "reason": reason,
            "status": status,
            "note": note[:500],
        },
    )
