"""The one door, against the real registry."""

import asyncio
import contextvars
import logging
import threading
import time
from typing import Annotated, Any

import pytest
from prometheus_client import REGISTRY

from agentbackend.foundation.database import Database
from agentbackend.foundation.writer import GroupWriter, Unit
from audit import rows
from audit.entry import AuditEntry, Outcome
from tests.tools.support import Door, ToolMaker, details, envelope, somebody
from tools.calls import SideEffects, ToolOutcome
from tools.invocation import ToolError, ToolInvocation
from tools.schemas import MAX_PROBLEMS_TOLD

SECRET = 's3cr3t-"value"-of-a-credential'


async def greet(name: Annotated[str, {"maxLength": 20}] = "you") -> str:
    return f"Hello {name}"


# --- a call that is permitted


async def test_a_permitted_call_gives_the_functions_text(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)

    result = await door.call(name, {"name": "Ada"})

    assert (result.ok, result.content, result.version) == (True, "Hello Ada", 1)
    assert result.duration_ms > 0


async def test_permission_is_recorded_before_the_tool_is_executed_and_the_result_after(
    door: Door, make_tool: ToolMaker
):
    recorded_at_execution: list[str] = []

    async def look(name: str) -> str:
        recorded_at_execution.extend(door.recorder.actions)
        return "seen"

    name = await make_tool(look)
    await door.call(name, {"name": "x"})

    assert recorded_at_execution == ["tool.allowed"]
    assert door.recorder.actions == ["tool.allowed", "tool.called"]
    allowed, called = door.recorder.entries
    assert envelope(allowed)["reason"] == "any_role"
    assert envelope(allowed)["target_id"] == name
    assert envelope(allowed)["policy_version"].startswith(f"{name}:1:")
    assert details(allowed)["arguments"] == {"name": "x"}
    assert details(called)["result"] == "seen"
    assert envelope(called)["request_id"] == "request-1"


async def test_nothing_is_executed_when_it_cannot_be_recorded(door: Door, make_tool: ToolMaker):
    executed: list[str] = []

    class BrokenRecorder:
        async def record(self, entry: AuditEntry) -> None:
            raise ConnectionError("the database is gone")

        def note(self, entry: AuditEntry) -> None:
            raise AssertionError("nothing was executed, so there is nothing to tell")

    async def act() -> str:
        executed.append("x")
        return ""

    name = await make_tool(act)
    with pytest.raises(ConnectionError):
        await door.call(name, recorder=BrokenRecorder())

    assert executed == []


async def test_the_records_of_a_call_reach_the_audit_trail_through_the_writer(
    door: Door, make_tool: ToolMaker, database_pool: Database
):
    writer = GroupWriter(database_pool)
    writer.start()

    class WritingRecorder:
        async def record(self, entry: AuditEntry) -> None:
            unit = Unit()
            rows.add_to(unit, entry)
            await writer.commit(unit)

        def note(self, entry: AuditEntry) -> None:
            unit = Unit()
            rows.add_to(unit, entry)
            writer.submit(unit)

    name = await make_tool(greet)
    try:
        assert (await door.call(name, recorder=WritingRecorder())).ok
    finally:
        await writer.stop()

    found = await database_pool.fetch_all(
        "SELECT action FROM audit_events WHERE target_id = %s AND run_id IS NOT NULL ORDER BY id", (name,)
    )
    assert sorted(row[0] for row in found) == ["tool.allowed", "tool.called"]


async def test_a_function_gets_its_invocation_beside_the_arguments(door: Door, make_tool: ToolMaker):
    seen: list[ToolInvocation] = []

    async def act(text: str, *, invocation: ToolInvocation) -> str:
        seen.append(invocation)
        return text

    actor = somebody()
    name = await make_tool(act, timeout_seconds=7)
    await door.call(name, {"text": "x"}, actor=actor)

    [invocation] = seen
    assert invocation.actor == actor
    assert (invocation.tool, invocation.call_id) == (name, "call-1")
    assert invocation.idempotency_key == f"{invocation.run_id}:call-1"
    assert 0 < invocation.seconds_left <= 7


async def test_an_argument_cannot_take_the_place_of_the_invocation(door: Door, make_tool: ToolMaker):
    async def act(*, invocation: ToolInvocation) -> str:
        return invocation.actor.id

    name = await make_tool(act)
    result = await door.call(name, {"invocation": {"actor": {"id": "somebody else"}}})

    assert result.outcome is ToolOutcome.INVALID_ARGUMENTS


async def test_a_blocking_function_runs_on_another_thread_with_the_callers_context(door: Door, make_tool: ToolMaker):
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set by the caller")

    def act() -> dict[str, Any]:
        return {"thread": threading.get_ident(), "variable": variable.get()}

    name = await make_tool(act)
    result = await door.call(name)

    assert result.value["variable"] == "set by the caller"
    assert result.value["thread"] != threading.get_ident()


# --- refusals


async def test_an_unknown_tool_is_refused_and_recorded(door: Door):
    result = await door.call("no_such_tool")

    assert (result.outcome, result.retryable) == (ToolOutcome.UNKNOWN_TOOL, False)
    assert "no_such_tool" in result.content
    assert door.recorder.actions == ["tool.denied"]
    assert envelope(door.last)["reason"] == "unknown_tool"


async def test_a_name_that_is_no_name_is_refused_and_recorded_without_its_text(door: Door):
    name = "drop table; somebody@example.org " * 50

    result = await door.call(name)

    assert result.outcome is ToolOutcome.UNKNOWN_TOOL
    assert len(result.content) < 200
    assert "@" not in envelope(door.last)["target_id"]


async def test_a_tool_that_the_agent_does_not_have_is_refused(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)

    result = await door.call(name, allowed=frozenset({"another_tool"}))

    assert result.outcome is ToolOutcome.DENIED
    assert envelope(door.last)["reason"] == "not_a_tool_of_this_agent"
    assert (await door.call(name, allowed=frozenset({name}))).ok


async def test_a_tool_that_is_switched_off_is_refused(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet, enabled=False)

    assert (await door.call(name)).outcome is ToolOutcome.DISABLED
    assert door.recorder.actions == ["tool.denied"]


async def test_a_role_that_is_required_is_checked_at_the_call(door: Door, make_tool: ToolMaker):
    executed: list[str] = []

    async def act() -> str:
        executed.append("x")
        return "done"

    name = await make_tool(act, required_role="admin")
    refused = await door.call(name, actor=somebody("user"))

    assert (refused.outcome, executed) == (ToolOutcome.DENIED, [])
    assert "admin" in refused.content
    assert (door.last.outcome, envelope(door.last)["reason"]) == (Outcome.DENIED, "admin_only")
    assert (await door.call(name, actor=somebody("admin"))).content == "done"
    assert envelope(door.recorder.entries[1])["reason"] == "same_role"


async def test_a_deny_rule_stops_an_administrator_too(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)
    await make_tool.deny(name, reason="under investigation")

    result = await door.call(name, actor=somebody("admin"))

    assert result.outcome is ToolOutcome.DENIED
    assert "under investigation" in result.content
    assert envelope(door.last)["reason"] == "deny_rule"


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{not json", "not JSON"),
        ("[1]", "must be a JSON object"),
        ('"text"', "must be a JSON object"),
        ('{"name": 5}', "name: 5 is not of type"),
        ('{"name": "much too long for this tool"}', "name: "),
        ('{"nome": "x"}', "'nome'"),
        ('{"name": "a\\u0000b"}', "NUL"),
        ('{"name": "\\ud800"}', "not JSON"),
        ('{"name": "\ud800"}', "not JSON"),
        ('{"name": "' + "x" * 70_000 + '"}', "longer than 65536 bytes"),
        ("[" * 5000, "not JSON"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_and_the_model_is_told_why(
    door: Door, make_tool: ToolMaker, arguments: str, told: str
):
    name = await make_tool(greet)

    result = await door.call(name, arguments)

    assert (result.outcome, result.retryable) == (ToolOutcome.INVALID_ARGUMENTS, True)
    assert told in result.content
    assert len(result.content) < 2000
    assert door.recorder.actions == ["tool.failed"]
    assert envelope(door.last)["reason"] == "invalid_arguments"


async def test_the_path_of_what_does_not_fit_is_named(door: Door, make_tool: ToolMaker):
    async def act(items: list[dict[str, int]]) -> str:
        return ""

    name = await make_tool(act)
    result = await door.call(name, {"items": [{"a": 1}, {"b": "two"}]})

    assert "items[1].b" in result.content


async def test_not_more_problems_are_told_than_a_model_can_use(door: Door, make_tool: ToolMaker):
    async def act(items: list[int]) -> str:
        return ""

    name = await make_tool(act)
    result = await door.call(name, {"items": ["x"] * 500})

    assert result.content.count("items[") == MAX_PROBLEMS_TOLD


async def test_a_written_backslash_before_u0000_is_no_nul(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)

    assert (await door.call(name, r'{"name": "a\\u0000b"}')).content == r"Hello a\u0000b"


@pytest.mark.parametrize("arguments", ["", "  ", "{}"])
async def test_no_arguments_may_be_written_as_nothing(door: Door, make_tool: ToolMaker, arguments: str):
    name = await make_tool(greet)

    assert (await door.call(name, arguments)).content == "Hello you"


# --- credentials


async def test_a_missing_credential_is_named_to_the_operator_and_not_to_the_model(
    door: Door, make_tool: ToolMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.delenv("SOME_TOOL_KEY", raising=False)
    name = await make_tool(greet, required_credentials=["SOME_TOOL_KEY"])

    with caplog.at_level(logging.INFO, "tools"):
        result = await door.call(name)

    assert result.outcome is ToolOutcome.MISSING_CREDENTIAL
    assert "SOME_TOOL_KEY" not in result.content
    assert details(door.last)["note"] == "SOME_TOOL_KEY is not set"
    [logged] = [record for record in caplog.records if record.name == "tools.door"]
    assert (logged.levelno, vars(logged)["note"]) == (logging.WARNING, "SOME_TOOL_KEY is not set")


async def test_a_credential_reaches_the_function_and_nobody_else(
    door: Door, make_tool: ToolMaker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOME_TOOL_KEY", SECRET)
    seen: list[str] = []

    async def act(*, invocation: ToolInvocation) -> dict[str, Any]:
        seen.append(invocation.credentials["SOME_TOOL_KEY"])
        return {"sent": f"Authorization: {SECRET}", "repr": repr(invocation)}

    name = await make_tool(act, required_credentials=["SOME_TOOL_KEY"])
    result = await door.call(name)

    assert seen == [SECRET]
    assert result.value["sent"] == "Authorization: [redacted]"
    recorded = b"".join(entry.envelope + entry.payload_row[-1] for entry in door.recorder.entries)
    for written in (result.content, repr(result.value), recorded.decode()):
        assert "s3cr3t" not in written


@pytest.mark.parametrize("error", [ToolError(f"401 for {SECRET}"), ValueError(f"401 for {SECRET}")])
async def test_a_credential_in_an_error_reaches_neither_model_nor_log_nor_trail(
    door: Door,
    make_tool: ToolMaker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
):
    monkeypatch.setenv("SOME_TOOL_KEY", SECRET)

    async def act(*, invocation: ToolInvocation) -> str:
        raise error

    name = await make_tool(act, required_credentials=["SOME_TOOL_KEY"])
    with caplog.at_level(logging.DEBUG):
        result = await door.call(name)

    assert result.outcome is ToolOutcome.FAILED
    assert "s3cr3t" not in result.content + caplog.text + str(details(door.last))


# --- failures


async def test_what_a_tool_says_went_wrong_is_told(door: Door, make_tool: ToolMaker):
    async def act() -> str:
        raise ToolError("There is no such city.")

    name = await make_tool(act)
    result = await door.call(name)

    assert (result.outcome, result.content, result.error) == (
        ToolOutcome.FAILED,
        "There is no such city.",
        "There is no such city.",
    )
    assert door.recorder.actions == ["tool.allowed", "tool.failed"]


async def test_a_fault_inside_a_tool_is_logged_and_not_told(
    door: Door, make_tool: ToolMaker, caplog: pytest.LogCaptureFixture
):
    async def act() -> str:
        raise KeyError("internal detail")

    name = await make_tool(act)
    result = await door.call(name)

    assert result.outcome is ToolOutcome.FAILED
    assert "internal detail" not in result.content
    assert "internal detail" in caplog.text


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), RecursionError()])
async def test_whatever_a_blocking_function_raises_ends_the_call_only(
    door: Door, make_tool: ToolMaker, error: BaseException
):
    def act() -> str:
        raise error

    name = await make_tool(act)

    assert (await door.call(name)).outcome is ToolOutcome.FAILED


async def test_a_tool_that_takes_too_long_is_stopped(door: Door, make_tool: ToolMaker):
    stopped = asyncio.Event()

    async def act() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    name = await make_tool(act, timeout_seconds=0.05, side_effects=SideEffects.IDEMPOTENT)
    result = await door.call(name)

    assert (result.outcome, result.retryable, stopped.is_set()) == (ToolOutcome.TIMED_OUT, True, True)
    assert envelope(door.last)["reason"] == "timed_out"


async def test_after_a_late_tool_with_unsafe_effects_nobody_is_told_to_repeat_it(door: Door, make_tool: ToolMaker):
    release = threading.Event()

    def act() -> None:
        release.wait(10)

    name = await make_tool(act, timeout_seconds=0.05)
    try:
        result = await door.call(name)
    finally:
        release.set()

    assert (result.outcome, result.retryable) == (ToolOutcome.TIMED_OUT, False)
    assert "may have taken effect" in result.content


async def test_a_tools_own_time_limit_is_a_fault_and_not_the_doors(door: Door, make_tool: ToolMaker):
    async def act() -> str:
        raise TimeoutError

    name = await make_tool(act)

    assert (await door.call(name)).outcome is ToolOutcome.FAILED


async def test_cancellation_passes_through_and_reaches_the_tool(door: Door, make_tool: ToolMaker):
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def act() -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    name = await make_tool(act)
    task = asyncio.ensure_future(door.call(name))
    await asyncio.wait_for(entered.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert cancelled.is_set()
    assert door.recorder.actions == ["tool.allowed"]


async def failing_twice(door: Door, make_tool: ToolMaker, **options: Any) -> tuple[Any, int]:
    tries: list[float] = []

    async def act() -> str:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise ToolError("busy", retryable=True)
        return "done"

    name = await make_tool(act, **options)
    return await door.call(name), len(tries)


async def test_a_failure_that_may_pass_is_tried_again_as_often_as_the_tool_says(door: Door, make_tool: ToolMaker):
    result, tries = await failing_twice(door, make_tool, side_effects=SideEffects.IDEMPOTENT, max_retries=2)

    assert (result.content, tries) == ("done", 3)
    assert door.recorder.actions == ["tool.allowed", "tool.called"]


async def test_a_failure_is_told_when_the_tries_are_used_up(door: Door, make_tool: ToolMaker):
    result, tries = await failing_twice(door, make_tool, side_effects=SideEffects.KEYED, max_retries=1)

    assert (result.content, result.retryable, tries) == ("busy", True, 2)


async def test_without_retries_a_failure_is_told_at_once(door: Door, make_tool: ToolMaker):
    result, tries = await failing_twice(door, make_tool)

    assert (result.content, tries) == ("busy", 1)


# --- results


async def test_what_is_no_text_becomes_json(door: Door, make_tool: ToolMaker):
    async def act() -> dict[str, Any]:
        return {"city": "Zürich", "values": [1, 2.5, None, True]}

    name = await make_tool(act)
    result = await door.call(name)

    assert result.content == '{"city":"Zürich","values":[1,2.5,null,true]}'
    assert result.value == {"city": "Zürich", "values": [1, 2.5, None, True]}


async def test_a_long_result_is_cut_and_says_so(door: Door, make_tool: ToolMaker):
    async def act() -> str:
        return "ä" * 5000

    name = await make_tool(act, output_limit_bytes=1000)
    result = await door.call(name)

    assert result.ok
    assert result.truncated
    assert len(result.content.encode()) <= 1000
    assert result.content.endswith("[The output was cut here: it has 10000 bytes, the limit is 1000.]")


@pytest.mark.parametrize("value", [object(), {"x": object()}, "\ud800".encode("utf-8", "surrogatepass")])
async def test_a_result_that_cannot_be_written_is_a_fault(door: Door, make_tool: ToolMaker, value: object):
    async def act() -> Any:
        return value

    name = await make_tool(act)

    assert (await door.call(name)).outcome is ToolOutcome.FAILED


async def test_a_result_holds_no_character_that_cannot_be_stored(door: Door, make_tool: ToolMaker):
    async def act() -> str:
        return "a\0b\ud800c"

    name = await make_tool(act)
    result = await door.call(name)

    assert result.ok
    assert "\0" not in result.content
    result.content.encode()


async def test_a_result_that_is_not_what_the_tool_promises_is_withheld(
    door: Door, make_tool: ToolMaker, caplog: pytest.LogCaptureFixture
):
    async def act(good: bool) -> dict[str, Any]:
        return {"count": 1} if good else {"count": "a private text"}

    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    name = await make_tool(act, output_schema=schema)

    assert (await door.call(name, {"good": True})).value == {"count": 1}
    withheld = await door.call(name, {"good": False})
    assert withheld.outcome is ToolOutcome.FAILED
    assert "private" not in withheld.content
    assert "does not fit its output schema" in caplog.text


async def test_calls_side_by_side_do_not_wait_for_each_other(door: Door, make_tool: ToolMaker):
    both = asyncio.Barrier(2)

    async def act() -> str:
        await both.wait()
        return "met"

    name = await make_tool(act, timeout_seconds=10)
    results = await asyncio.gather(door.call(name), door.call(name))

    assert [result.content for result in results] == ["met", "met"]


def counted(tool: str, outcome: str) -> float:
    labels = {"tool": tool, "outcome": outcome}
    return REGISTRY.get_sample_value("agentbackend_tool_calls_total", labels) or 0.0


async def test_calls_are_counted_by_tool_and_outcome_and_invented_names_share_a_label(door: Door, make_tool: ToolMaker):
    name = await make_tool(greet)
    unknown_before = counted("(unknown)", "unknown_tool")

    await door.call(name)
    await door.call(name, {"name": 5})
    await door.call("invented_one")
    await door.call("invented_two")

    assert (counted(name, "ok"), counted(name, "invalid_arguments")) == (1, 1)
    assert counted("(unknown)", "unknown_tool") - unknown_before == 2
