"""A person's yes at the door: it is for one caller, one version of a tool, one set of arguments, and for a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from audit.actor import SYSTEM, Actor
from tests.tools.support import Door, ToolMaker, details, somebody
from tools.calls import CallContext, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool, refused_before_approval, request_for
from tools.governance.approvals import Approval, ApprovalRequest, Binding, Decider, digest_of_arguments
from tools.models import ArgumentRule, Tool
from tools.versions import Definition, digest_of, publish_version

SOON = timedelta(hours=1)


async def add(first: int, second: int = 1) -> str:
    return str(first + second)


async def guarded(make_tool: ToolMaker, **changes: Any) -> str:
    """A tool each call of which needs a person's word."""
    name = await make_tool(add)
    await published(name, approval_required=True, **changes)
    return name


async def published(name: str, **changes: Any) -> None:
    def publish() -> None:
        tool = Tool.objects.select_related("current_version").get(name=name)
        assert tool.current_version is not None
        publish_version(tool, replace(Definition.of(tool.current_version), **changes), by=SYSTEM)

    await sync_to_async(publish)()


async def call(door: Door, name: str, arguments: str, actor: Actor, approval: Approval | None = None) -> ToolResult:
    context = CallContext(actor=actor, recorder=door.recorder, approval=approval, request_id="r")
    return await call_tool(ToolCall("call-1", name, arguments), context, registry=door.registry)


def yes_to(request: ApprovalRequest, **changes: Any) -> Approval:
    now = datetime.now(UTC)
    given = Approval(request.binding, interrupt_id="i-1", decided_by="console:7", decided_at=now, expires_at=now + SOON)
    return replace(given, **changes)


async def asked(door: Door, name: str, arguments: str, actor: Actor) -> ApprovalRequest:
    refused = await call(door, name, arguments, actor)
    assert refused.outcome is ToolOutcome.NEEDS_APPROVAL
    request: ApprovalRequest = refused.details["approval"]
    return request


async def test_a_call_is_made_with_the_yes_that_was_given_to_it_and_the_record_says_whose(
    door: Door, make_tool: ToolMaker
):
    actor, name = somebody(), await guarded(make_tool)
    request = await asked(door, name, '{"first": 1, "second": 2}', actor)
    assert details(door.last)["binding"]["argumentsDigest"] == request.binding.arguments_digest

    result = await call(door, name, '{"second":2,"first":1}', actor, yes_to(request))

    assert result.content == "3"
    allowed = door.recorder.entries[-2]
    assert details(allowed)["approval"] | {"decided_at": "", "expires_at": ""} == {
        "interrupt": "i-1", "decided_by": "console:7", "decided_at": "", "expires_at": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "binding", "because"),
    [
        ('{"first": 2}', {}, "Other arguments were approved"),
        ('{"first": 1}', {"actor_id": "somebody-else"}, "for another caller"),
        ('{"first": 1}', {"tenant": "elsewhere"}, "for another caller"),
        ('{"first": 1}', {"tool": "another_tool"}, "Another tool"),
        ('{"first": 1}', {"tool_digest": "0" * 64}, "has changed since"),
        ('{"first": 1}', {"policy_versions": ()}, "policy has changed"),
    ],
)
async def test_what_was_not_approved_is_asked_again_and_not_made(
    door: Door, make_tool: ToolMaker, arguments: str, binding: dict[str, Any], because: str
):
    actor, name = somebody(), await guarded(make_tool)
    request = await asked(door, name, '{"first": 1}', actor)

    refused = await call(door, name, arguments, actor, yes_to(request, binding=replace(request.binding, **binding)))

    assert refused.outcome is ToolOutcome.NEEDS_APPROVAL
    assert because in refused.details["approval"].because
    assert because in refused.content
    assert "tool.allowed" not in door.recorder.actions


async def test_a_version_that_was_published_meanwhile_was_not_approved(door: Door, make_tool: ToolMaker):
    actor, name = somebody(), await guarded(make_tool)
    approval = yes_to(await asked(door, name, '{"first": 1}', actor))
    await published(name, timeout_seconds=3.0)

    again = await call(door, name, '{"first": 1}', actor, approval)

    assert again.outcome is ToolOutcome.NEEDS_APPROVAL
    assert (await call(door, name, '{"first": 1}', actor, yes_to(again.details["approval"]))).ok


async def test_a_yes_that_has_expired_is_refused_and_one_that_is_bound_to_nothing_asked_again(
    door: Door, make_tool: ToolMaker
):
    actor, name = somebody(), await guarded(make_tool)
    approval = yes_to(await asked(door, name, '{"first": 1}', actor))
    late = await call(door, name, '{"first": 1}', actor, replace(approval, expires_at=datetime.now(UTC)))
    assert (late.outcome, "expired" in late.content) == (ToolOutcome.DENIED, True)
    unbound = await call(door, name, '{"first": 1}', actor, replace(approval, binding=None))
    assert unbound.outcome is ToolOutcome.NEEDS_APPROVAL
    assert "tool.allowed" not in door.recorder.actions


async def test_no_yes_opens_what_the_role_does_not(door: Door, make_tool: ToolMaker):
    actor, name = somebody(), await guarded(make_tool)
    approval = yes_to(await asked(door, name, '{"first": 1}', actor))
    await make_tool.deny(name)
    assert (await call(door, name, '{"first": 1}', actor, approval)).outcome is ToolOutcome.DENIED


async def test_who_decides_stands_in_the_version(door: Door, make_tool: ToolMaker):
    name = await guarded(make_tool, approval_by="someone_else", approver_role="lead", approval_expires_seconds=60)
    request = await asked(door, name, '{"first": 1}', somebody())
    assert (request.decider, request.approver_role, request.expires_seconds) == (Decider.SOMEONE_ELSE, "lead", 60)


async def test_a_role_decides_only_where_someone_else_must(make_tool: ToolMaker):
    with pytest.raises(ValidationError) as refused:
        await guarded(make_tool, approver_role="lead")
    assert "approver_role" in refused.value.message_dict


async def test_edited_arguments_are_judged_before_anybody_is_told_that_they_will_do(door: Door, make_tool: ToolMaker):
    actor, name = somebody(), await guarded(make_tool)
    tool = await Tool.objects.aget(name=name)
    schema = {"properties": {"first": {"maximum": 10}}}
    await ArgumentRule.objects.acreate(tool=tool, role="user", schema=schema, reason="small sums only")

    async def refusal(arguments: str) -> str:
        found = await refused_before_approval(ToolCall("c", name, arguments), actor, registry=door.registry)
        return found.reason if found else ""

    assert await refusal('{"first": 3}') == ""
    assert await refusal('{"first": "three"}') == "invalid_arguments"
    assert await refusal('{"first": 11}') == "argument_rule"


async def test_what_would_be_asked_about_a_call_that_nobody_can_make_is_nothing(door: Door, make_tool: ToolMaker):
    name = await guarded(make_tool)
    assert await request_for(ToolCall("c", "no_such_tool", "{}"), somebody(), registry=door.registry) is None
    assert await request_for(ToolCall("c", name, "[]"), somebody(), registry=door.registry) is None


def test_a_binding_comes_back_from_its_document_as_it_was():
    binding = Binding("default", "a", "t", 3, "d", "e", ("t:3:d", "pii:2"))
    assert Binding.of(binding.as_document()) == binding


def test_who_decides_is_not_what_the_model_sees_so_the_digest_stays():
    plain = Definition(title="A", description="B", input_schema={"type": "object"})
    assert digest_of("a", plain) == digest_of("a", replace(plain, approval_by="someone_else", approver_role="lead"))


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(
        st.characters(exclude_categories=["Cs"])
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text("abcd", min_size=1), _json, min_size=1))
def test_the_digest_is_of_what_the_arguments_say_and_not_of_how_they_are_written(arguments: dict[str, Any]):
    digest = digest_of_arguments(arguments)
    assert digest_of_arguments(dict(reversed(arguments.items()))) == digest
    assert digest_of_arguments({**arguments, "e": 1}) != digest
