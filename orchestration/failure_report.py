"""What is told of a tool call that failed: a text for people, and for the model what kind of failure it was and what can help.

The text stands in the message and in TOOL_CALL_RESULT; beside it, in `metadata`, stand the same facts for programs. They are kept with
the message, so the model is told the same in later turns and runs.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import orjson

from tools.calls import FailureKind, ToolOutcome, ToolResult

_OTHER_ARGUMENTS_HELP = frozenset({FailureKind.BAD_ARGUMENTS, FailureKind.NOT_FOUND})


def failure_metadata(result: ToolResult, limits_left: dict[str, Any]) -> dict[str, Any]:
    """The facts of a failure, for TOOL_CALL_RESULT and its message. `limits_left`: what the run may still use."""
    kind = result.kind
    error: dict[str, Any] = {"code": result.outcome.value, "kind": kind.value, "retryable": result.retryable}
    if result.retry_after_seconds > 0:
        error["retryAfterSeconds"] = ceil(result.retry_after_seconds)
    error["otherArgumentsHelp"] = kind in _OTHER_ARGUMENTS_HELP and result.outcome is not ToolOutcome.UNKNOWN_TOOL
    if result.details.get("problems"):
        error["problems"] = result.details["problems"]
    return {"error": error, "limitsLeft": limits_left}


def told_to_the_model(message: dict[str, Any]) -> dict[str, Any] | None:
    """A tool message's failure as the model is told it; None for a message without such facts."""
    metadata = message.get("metadata")
    error = metadata.get("error") if isinstance(metadata, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("kind"), str):
        return None
    told: dict[str, Any] = {"kind": error["kind"], "message": _text(message)}
    if error.get("problems"):  # the text lists them, too
        told |= {"message": "It cannot be carried out as it is, and nothing of it was.", "problems": error["problems"]}
    told["retry"] = _retry(error)
    limits_left = metadata.get("limitsLeft") if isinstance(metadata, dict) else None
    return {"error": told, "limits_left": limits_left} if limits_left else {"error": told}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) and content else str(message.get("error") or "")


def as_text(told: dict[str, Any]) -> str:
    """The report as the content of a tool message."""
    return orjson.dumps(told).decode()


def _retry(error: dict[str, Any]) -> dict[str, Any]:
    other, same = bool(error.get("otherArgumentsHelp")), bool(error.get("retryable"))
    retry: dict[str, Any] = {"can_help": same or other, "same_arguments": same and not other}
    if "retryAfterSeconds" in error:
        retry["after_seconds"] = error["retryAfterSeconds"]
    return retry
