"""What the model is told of a failed call: what kind of failure it was, whether a retry can help and when, what is left."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestration import history
from orchestration.failure_report import failure_metadata
from tools.calls import FailureKind, ToolOutcome, ToolResult

LEFT = {"model_turns": 4, "seconds": 120}

REPORTS: list[tuple[ToolResult, dict[str, Any]]] = [
    (ToolResult(ToolOutcome.INVALID_ARGUMENTS, "m", retryable=True), {"kind": "bad_arguments", "can": True, "same": False}),
    (ToolResult(ToolOutcome.DENIED, "m"), {"kind": "refused", "can": False, "same": False}),
    (ToolResult(ToolOutcome.UNKNOWN_TOOL, "m"), {"kind": "not_found", "can": False, "same": False}),
    (ToolResult(ToolOutcome.FAILED, "m", failure_kind=FailureKind.NOT_FOUND), {"kind": "not_found", "can": True, "same": False}),
    (ToolResult(ToolOutcome.TIMED_OUT, "m", retryable=True), {"kind": "timeout", "can": True, "same": True}),
    (ToolResult(ToolOutcome.TIMED_OUT, "m"), {"kind": "timeout", "can": False, "same": False}),
    (ToolResult(ToolOutcome.FAILED, "m"), {"kind": "upstream_error", "can": False, "same": False}),
    (ToolResult(ToolOutcome.MISSING_CREDENTIAL, "m"), {"kind": "unavailable", "can": False, "same": False}),
    (
        ToolResult(ToolOutcome.RATE_LIMITED, "m", retryable=True, retry_after_seconds=2.1),
        {"kind": "rate_limited", "can": True, "same": True, "after": 3},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("result", "expected"), REPORTS)
def test_the_model_is_told_what_can_help(result: ToolResult, expected: dict[str, Any]) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}]
    thread = [
        {"id": "1", "role": "user", "content": "Do it"},
        {"id": "2", "role": "assistant", "toolCalls": calls},
        {"id": "3", "role": "tool", "toolCallId": "c", "content": "It broke.", "error": "broken",
         "metadata": failure_metadata(result, LEFT)},
    ]  # fmt: skip
    told = orjson.loads(history.to_model(thread, system="")[-1]["content"])
    retry = {"can_help": expected["can"], "same_arguments": expected["same"]}
    if "after" in expected:
        retry["after_seconds"] = expected["after"]
    assert told == {
        "error": {"kind": expected["kind"], "message": "It broke.", "retry": retry},
        "limits_left": LEFT,
    }
