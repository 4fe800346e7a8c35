"""Calls that fail again and again: a model that repeats itself is told, and then stopped.

The same call is the same tool with the same arguments, however they are written. It may fail once more after a failure that the same
call cannot mend, three times in all; then it is not made any more, and the model is told so. Goes it on all the same, the run ends with
an honest answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from orchestration.run_task import AnswerStoppedError
from tools.calls import FailureKind, ToolCall, ToolOutcome, ToolResult

MAX_HOPELESS: Final = 2
MAX_FAILURES: Final = 3
LONGEST_PAUSE_SECONDS: Final = 20.0
_LONGEST_REASON = 400

_Key = tuple[str, str]


@dataclass(slots=True)
class _Failures:
    hopeless: int = 0
    all: int = 0
    last: str = ""
    refused_in_turn: int | None = None
    was_told: bool = False


@dataclass(slots=True)
class RepeatedFailures:
    """The failed calls of one run."""

    _failed: dict[_Key, _Failures] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    async def pause(self, call: ToolCall) -> None:
        """Wait until a tool that is short of calls takes them again: the model has no clock. Longer than a while is not waited."""
        seconds = self._not_before.get(call.name, 0.0) - time.monotonic()
        if 0 < seconds <= LONGEST_PAUSE_SECONDS:
            await asyncio.sleep(seconds)

    def refusal(self, call: ToolCall, *, turn: int) -> ToolResult | None:
        """What takes the place of a call that has failed too often; None when it may be made. `turn`: the number of the model turn."""
        failures = self._failed.get(_key(call))
        if failures is None or (failures.hopeless < MAX_HOPELESS and failures.all < MAX_FAILURES):
            return None
        if failures.refused_in_turn is not None and failures.refused_in_turn != turn:
            failures.was_told = True
        failures.refused_in_turn = turn
        message = (
            f"This call of {call.name[:64]} was not made: with the same arguments it has failed {failures.all} times. The last time: "
            f"{failures.last} Do something else: other arguments, another tool, or tell the user what did not work."
        )
        return ToolResult(
            ToolOutcome.DENIED, message, error=message, failure_kind=FailureKind.REPEATED, details={"repeated": True}
        )

    def note(self, call: ToolCall, result: ToolResult) -> None:
        """Count what came of a call."""
        if result.kind is FailureKind.RATE_LIMITED and not result.ok and result.retry_after_seconds > 0:
            self._not_before[call.name] = time.monotonic() + result.retry_after_seconds
        if result.ok:
            self._failed.pop(_key(call), None)
        elif result.kind is not FailureKind.REPEATED:
            hopeless = not result.retryable or result.kind is FailureKind.BAD_ARGUMENTS
            self._count(call, hopeless=hopeless, last=result.error or result.content)

    def note_known(self, name: str, arguments: str, message: dict[str, Any]) -> None:
        """Count a call that the run's journal holds."""
        call = ToolCall("", name, arguments)
        metadata = message.get("metadata")
        error = metadata.get("error") if isinstance(metadata, dict) else None
        if not isinstance(error, dict):
            self._failed.pop(_key(call), None)
        elif error.get("kind") == FailureKind.REPEATED:
            self._failed.setdefault(_key(call), _Failures()).refused_in_turn = -1
        else:
            hopeless = not error.get("retryable") or error.get("kind") == FailureKind.BAD_ARGUMENTS
            self._count(call, hopeless=hopeless, last=str(message.get("error") or ""))

    def check(self) -> None:
        """Raise AnswerStoppedError when a call was repeated although the model was told that it is not made any more."""
        for (name, _), failures in self._failed.items():
            if failures.was_told:
                text = (
                    f"I stopped here: I kept calling the tool {name[:64]} with the same arguments, though it failed {failures.all} "
                    f"times. The last time: {failures.last} Ask me in another way, or for something else."
                )
                raise AnswerStoppedError("repeated_failure", text, tool=name[:64], failures=failures.all)

    def _count(self, call: ToolCall, *, hopeless: bool, last: str) -> None:
        failures = self._failed.setdefault(_key(call), _Failures())
        failures.all += 1
        failures.hopeless += hopeless
        failures.last = last if len(last) <= _LONGEST_REASON else last[:_LONGEST_REASON] + "..."


def _key(call: ToolCall) -> _Key:
    """Tool and arguments; arguments that say the same are the same."""
    try:
        arguments = orjson.dumps(orjson.loads(call.arguments or "{}"), option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # no JSON, or nested too deeply to be written
        arguments = call.arguments.strip()
    return call.name, arguments
