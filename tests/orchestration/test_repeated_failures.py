"""A model that makes the same failing call again and again is told, and then stopped."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from orchestration.repeated_failures import RepeatedFailures
from orchestration.run_task import AnswerStoppedError
from tools.calls import FailureKind, ToolCall, ToolOutcome, ToolResult

CALL = ToolCall("1", "weather", '{"place": "Nowhere", "unit": "C"}')
SAME_CALL = ToolCall("2", "weather", '{"unit":"C","place":"Nowhere"}')
HOPELESS = ToolResult(ToolOutcome.FAILED, "No such place.", error="No such place.", failure_kind=FailureKind.NOT_FOUND)
PASSING = ToolResult(ToolOutcome.TIMED_OUT, "Too slow.", error="Too slow.", retryable=True)


@pytest.mark.parametrize(("result", "times"), [(HOPELESS, 2), (PASSING, 3)])
def test_a_call_is_not_made_any_more_after_it_has_failed_often_enough(result: ToolResult, times: int) -> None:
    repeated = RepeatedFailures()
    for turn in range(1, times + 1):
        assert repeated.refusal(CALL, turn=turn) is None
        repeated.note(SAME_CALL, result)
    refused = repeated.refusal(CALL, turn=times + 1)
    assert refused is not None
    assert (refused.kind, refused.ok) == (FailureKind.REPEATED, False)
    assert result.error in refused.content
    assert repeated.refusal(ToolCall("3", "weather", '{"place": "Oslo"}'), turn=times + 1) is None


def test_the_run_ends_when_the_model_goes_on_all_the_same_and_not_before() -> None:
    repeated = RepeatedFailures()
    for _ in range(2):
        repeated.note(CALL, HOPELESS)
    for _ in range(2):  # twice in one turn: it was not told in between
        assert repeated.refusal(CALL, turn=3) is not None
    repeated.check()
    assert repeated.refusal(CALL, turn=4) is not None
    with pytest.raises(AnswerStoppedError) as stopped:
        repeated.check()
    assert stopped.value.result == {"stopped": "repeated_failure", "tool": "weather", "failures": 2}
    assert "No such place." in stopped.value.text


async def test_a_call_of_a_tool_that_is_short_of_calls_waits_until_it_takes_them_again() -> None:
    repeated = RepeatedFailures()
    busy = ToolResult(ToolOutcome.RATE_LIMITED, "Later.", error="Later.", retryable=True, retry_after_seconds=0.05)
    noted_at = time.monotonic()
    repeated.note(CALL, busy)
    await repeated.pause(SAME_CALL)
    assert time.monotonic() >= noted_at + 0.05
    repeated.note(CALL, replace(busy, retry_after_seconds=3600))
    await asyncio.wait_for(repeated.pause(SAME_CALL), 5)  # so long nobody waits: the call is made, and refused


def test_a_success_begins_the_count_anew() -> None:
    repeated = RepeatedFailures()
    repeated.note(CALL, HOPELESS)
    repeated.note(CALL, ToolResult(ToolOutcome.OK, "fine"))
    repeated.note(CALL, HOPELESS)
    assert repeated.refusal(CALL, turn=4) is None
