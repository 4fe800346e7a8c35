"""Guardrail policies: their versions, what the door makes of them, and moderation endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.db import connection, transaction

from agentbackend.foundation.database import Database
from audit.actor import SYSTEM
from tests.foundation.loopback import Answer, Loopback, Seen, loopback
from tests.guardrail_support import a_word, make_policy, remove_policies
from tests.tools.support import Door, ToolMaker, details, envelope
from tools.calls import ToolOutcome
from tools.changes import submit
from tools.documents import Document, kind_named
from tools.governance.guardrails.policy import Stage
from tools.governance.policies import KEYWORDS_POLICY, publish_keywords_of_setting, seed_policies
from tools.governance.screens import UNREADABLE
from tools.models import ChangeRequest, GuardrailPolicy, GuardrailPolicyVersion
from tools.registry import ToolRegistry

pytestmark = pytest.mark.usefixtures("reach")


class Policies:
    """Makes policies that hold everywhere, on words of the test's own; all are gone after it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def __call__(self, action: str, *stages: str, words: list[str] | None = None, **changes: Any) -> str:
        options = {"everywhere": True, **changes}
        name = await sync_to_async(make_policy)(action, *stages, words=words, **options)
        self.names.append(name)
        return name


@pytest.fixture
async def policies() -> AsyncIterator[Policies]:
    made = Policies()
    yield made
    await sync_to_async(remove_policies)(made.names)


async def echo(text: str) -> str:
    """Says what it is told."""
    return text


async def backwards(text: str) -> dict[str, list[str]]:
    """Says it backwards, in a structure."""
    return {"said": [text[::-1]]}


# --- rows


async def test_a_policy_that_was_made_with_its_agent_holds_from_the_agents_first_run(
    database_pool: Database, policies: Policies
) -> None:
    registry = ToolRegistry(database_pool, clock=lambda: 1000.0)  # as if no time passes: what was read stays young
    await registry.snapshot()
    word = a_word()
    name = await policies("block", "output", words=[word], everywhere=False)
    screen = await registry.screen(frozenset({name}))
    assert (await screen.check(Stage.OUTPUT, word)).blocked is not None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"stages": []}, "stages"),
        ({"action": "forbid"}, "action"),
        ({"kind": "magic"}, "kind"),
        ({"action": "ask", "stages": ["tool_arguments", "output"]}, "action"),
        ({"kind": "model", "action": "redact", "settings": {"url": "http://127.0.0.1:9/v1"}}, "action"),
        ({"kind": "model", "settings": {"url": "ftp://x"}}, "settings"),
        ({"kind": "model", "settings": {"url": "http://127.0.0.1:9/v1", "on_failure": "shrug"}}, "settings"),
        ({"kind": "model", "settings": {"url": "http://127.0.0.1:9/v1", "colour": "red"}}, "settings"),
    ],
)
async def test_what_the_engine_cannot_work_with_is_refused_at_its_field(changes: dict[str, Any], field: str) -> None:
    spec = {"kind": "keywords", "stages": ["output"], "action": "block", "settings": {"keywords": ["x"]}, **changes}
    kind = kind_named("Guardrail")
    with pytest.raises(ValidationError) as refused:
        await sync_to_async(lambda: kind.check("a-name", kind.complete(spec)))()
    assert field in refused.value.message_dict


@sync_to_async
def changed_policy(name: str, **changes: Any) -> ChangeRequest | None:
    spec = {**(kind_named("Guardrail").read(name) or {}), **changes}
    return submit(Document("Guardrail", name, spec), by=SYSTEM, reason="for a test")


async def test_each_change_of_the_rule_is_a_version_that_never_changes(policies: Policies) -> None:
    name = await policies("block", "output", words=["b", "a", "b"])
    await changed_policy(name, enabled=False)  # no new version
    await changed_policy(name, message="No.")
    await changed_policy(name, message="No.")  # nothing new
    found = [version async for version in GuardrailPolicyVersion.objects.filter(policy__name=name).order_by("number")]
    assert [version.number for version in found] == [1, 2]
    assert found[0].settings == {"keywords": ["a", "b"]}
    assert found[0].digest != found[1].digest

    def rewrite() -> None:
        with transaction.atomic():
            GuardrailPolicyVersion.objects.filter(pk=found[0].pk).update(message="Yes.")

    with pytest.raises(Exception, match="never change"):
        await sync_to_async(rewrite)()


async def test_switching_on_needs_a_second_person_where_four_eyes_says_so_and_off_does_not(
    policies: Policies, settings: Any
) -> None:
    name = await policies("block", "output", words=[a_word()])
    settings.FOUR_EYES = ["guardrails"]
    assert await changed_policy(name, enabled=False) is None
    proposal = await changed_policy(name, enabled=True)
    assert proposal is not None
    assert await GuardrailPolicy.objects.filter(name=name, enabled=False).aexists()


@sync_to_async
def keywords_policy() -> GuardrailPolicy:
    return GuardrailPolicy.objects.select_related("current_version").get(name=KEYWORDS_POLICY)


async def test_the_setting_publishes_a_version_when_its_words_are_others() -> None:
    word = a_word()
    publish = sync_to_async(publish_keywords_of_setting)
    try:
        await publish([word])
        first = (await keywords_policy()).current_version
        await publish([word])
        assert (await keywords_policy()).current_version == first
        await publish([word, a_word()])
        second = (await keywords_policy()).current_version
        assert first is not None and second is not None
        assert second.number == first.number + 1
        with pytest.raises(ValidationError, match="DISALLOWED_KEYWORDS"):
            await sync_to_async(kind_named("Guardrail").check)(
                KEYWORDS_POLICY,
                kind_named("Guardrail").complete({"kind": "keywords", "stages": ["output"], "action": "warn"}),
            )
    finally:
        await publish([])
    assert not (await keywords_policy()).enabled


async def test_the_service_comes_with_policies_and_leaves_them_to_administrators() -> None:
    await sync_to_async(seed_policies)()
    found = {policy.name: policy async for policy in GuardrailPolicy.objects.select_related("current_version")}
    assert found["secrets"].current_version is not None
    assert found["injection"].current_version is not None
    before = await GuardrailPolicyVersion.objects.acount()
    await sync_to_async(seed_policies)()
    assert await GuardrailPolicyVersion.objects.acount() == before


# --- the door


async def test_blocked_arguments_reach_neither_the_tool_nor_the_trail(
    door: Door, make_tool: ToolMaker, policies: Policies
) -> None:
    word, called = a_word(), []

    async def listen(text: str) -> str:
        """Listens."""
        called.append(text)
        return "heard"

    tool = await make_tool(listen)
    name = await policies("block", "tool_arguments", words=[word], message="Speak of something else.")
    result = await door.call(tool, {"text": f"of {word}"})

    assert (result.outcome, called) == (ToolOutcome.DENIED, [])
    assert name in result.error and "Speak of something else." in result.error
    assert word not in result.error
    assert result.policy_version.startswith(f"{name}:1:")
    assert [found["policy"] for found in result.details["guardrails"]] == [name]
    assert door.recorder.actions == ["tool.denied", "guardrail.violation"]
    assert envelope(door.recorder.entries[0])["reason"] == "guardrail"
    for entry in door.recorder.entries:
        assert envelope(entry)["policy_version"] == result.policy_version
        assert word not in orjson.dumps(details(entry)).decode()


@pytest.mark.parametrize("arguments", ['{"text": 5, "other": "%s"}', "of %s {", '{"text": "%s", "x": 1}'])
async def test_arguments_that_are_refused_for_another_reason_are_recorded_without_what_is_blocked(
    door: Door, make_tool: ToolMaker, policies: Policies, arguments: str
) -> None:
    word = a_word()
    tool = await make_tool(echo)
    await policies("block", "tool_arguments", words=[word])
    result = await door.call(tool, arguments.replace("%s", word))
    assert not result.ok
    assert word not in orjson.dumps([details(entry) for entry in door.recorder.entries]).decode()
    assert word not in result.content


async def test_a_policy_that_asks_wants_a_persons_word(door: Door, make_tool: ToolMaker, policies: Policies) -> None:
    word = a_word()
    tool = await make_tool(echo)
    name = await policies("ask", "tool_arguments", words=[word])
    assert (await door.call(tool, {"text": "harmless"})).ok
    result = await door.call(tool, {"text": word})
    assert result.outcome is ToolOutcome.NEEDS_APPROVAL
    assert result.policy_version.startswith(f"{name}:1:")


async def test_structured_results_are_redacted_within(door: Door, make_tool: ToolMaker, policies: Policies) -> None:
    word = a_word()
    tool = await make_tool(backwards)
    await policies("redact", "tool_result", words=[word])
    result = await door.call(tool, {"text": word[::-1]})
    assert result.ok
    assert word not in result.content
    assert orjson.loads(result.content) == result.value
    assert word not in orjson.dumps([details(entry) for entry in door.recorder.entries]).decode()


async def test_results_are_output_too(door: Door, make_tool: ToolMaker, policies: Policies) -> None:
    word = a_word()
    tool = await make_tool(echo)
    await policies("block", "output", words=[word])
    result = await door.call(tool, {"text": word})
    assert result.outcome is ToolOutcome.WITHHELD
    assert word not in result.content


async def test_a_policy_that_cannot_be_read_blocks_everything_at_its_stages(
    door: Door, make_tool: ToolMaker, policies: Policies, tool_registry: ToolRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    name = await policies("warn", "tool_arguments", words=["x"], everywhere=False)

    def break_it() -> None:
        broken = GuardrailPolicy.objects.get(name=name)
        assert broken.current_version is not None
        version = GuardrailPolicyVersion.objects.create(
            policy=broken, number=2, kind="sorcery", stages=["tool_arguments"], action="warn", digest="0" * 64
        )
        GuardrailPolicy.objects.filter(name=name).update(current_version=version)

    await sync_to_async(break_it)()
    screen = await tool_registry.screen(frozenset({name}))
    checked = await screen.check(Stage.TOOL_ARGUMENTS, "anything")
    assert checked.blocked is not None
    assert (checked.blocked.policy.name, checked.blocked.category) == (name, UNREADABLE)
    assert not (await screen.check(Stage.OUTPUT, "anything")).findings
    assert f"the guardrail policy {name} cannot be read" in caplog.text
    tool = await make_tool(echo)
    assert (await door.call(tool, {"text": "for callers who do not name it"})).ok


# --- moderation endpoints


def judging(word: str) -> Callable[[Seen], Answer]:
    """An endpoint that objects to a word."""

    def answer(seen: Seen) -> Answer:
        flagged = word in orjson.loads(seen.body)["input"]
        result = {
            "flagged": flagged,
            "categories": {"violence": flagged},
            "category_scores": {"violence": 0.9 * flagged},
        }
        return Answer(body=orjson.dumps({"results": [result]}), headers={"content-type": "application/json"})

    return answer


@asynccontextmanager
async def moderated(
    policies: Policies, answer: Callable[[Seen], Answer], *stages: str, **settings: Any
) -> AsyncIterator[tuple[Loopback, str]]:
    async with loopback(answer) as site:
        found = {"url": f"{site.url}/v1", "model": "judge", "timeout_seconds": 0.5, **settings}
        yield site, await policies("block", *stages, kind="model", settings=found, everywhere=False)


async def test_a_moderation_endpoint_is_asked_once_about_the_same_text(
    policies: Policies, tool_registry: ToolRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = a_word()
    monkeypatch.setenv("JUDGE_TOOL_API_KEY", "let-me-in-please")
    async with moderated(policies, judging(word), "user_input", credential="JUDGE_TOOL_API_KEY") as (site, name):
        screen = await tool_registry.screen(frozenset({name}))
        for _ in range(2):
            blocked = (await screen.check(Stage.USER_INPUT, f"of {word}")).blocked
            assert blocked is not None
            assert (blocked.policy.name, blocked.category) == (name, "violence")
        assert not (await screen.check(Stage.USER_INPUT, f"of peace {word[:3]}")).findings
        assert [seen.target for seen in site.seen] == ["/v1/moderations"] * 2
        assert site.seen[0].headers["authorization"] == "Bearer let-me-in-please"
        assert orjson.loads(site.seen[0].body)["model"] == "judge"


@pytest.mark.parametrize("answer", [Answer(500), Answer(never=True), Answer(body=b"{}"), Answer(302)])
@pytest.mark.parametrize("on_failure", ["block", "allow"])
async def test_what_cannot_be_judged_is_blocked_unless_the_policy_says_otherwise(
    policies: Policies, tool_registry: ToolRegistry, answer: Answer, on_failure: str
) -> None:
    async with moderated(policies, lambda _: answer, "user_input", on_failure=on_failure) as (_, name):
        screen = await tool_registry.screen(frozenset({name}))
        checked = await screen.check(Stage.USER_INPUT, f"a text of its own {uuid4()}")
        assert (checked.blocked is not None) == (on_failure == "block")


async def test_categories_and_a_threshold_narrow_what_counts(policies: Policies, tool_registry: ToolRegistry) -> None:
    word = a_word()
    for settings, blocks in (
        ({"categories": ["hate"]}, False),
        ({"categories": ["violence"]}, True),
        ({"threshold": 0.95}, False),
        ({"threshold": 0.5}, True),
    ):
        async with moderated(policies, judging(word), "user_input", **settings) as (_, name):
            screen = await tool_registry.screen(frozenset({name}))
            assert ((await screen.check(Stage.USER_INPUT, word)).blocked is not None) == blocks


async def test_many_callers_share_one_compilation(policies: Policies, tool_registry: ToolRegistry) -> None:
    name = await policies("block", "output", words=[a_word() for _ in range(50)], everywhere=False)
    screens = await asyncio.gather(*(tool_registry.screen(frozenset({name})) for _ in range(5)))
    assert len({id(screen.fast) for screen in screens}) == 1


def test_a_change_of_a_policy_moves_the_registry_on(superuser_connection: psycopg.Connection) -> None:
    revision = "SELECT revision FROM tools_registryrevision"
    [(before,)] = superuser_connection.execute(revision).fetchall()
    remove_policies([make_policy("block", "output", words=[a_word()])])
    [(after,)] = superuser_connection.execute(revision).fetchall()
    assert after > before
    connection.close()
