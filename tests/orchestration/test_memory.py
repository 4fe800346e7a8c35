"""What of a long thread is summarised, and what the model is shown then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from orchestration import memory
from orchestration.agents import AgentProfile
from orchestration.memory import MEMORY_TITLE, Memory, StoredTurn

AGENT = AgentProfile(
    id=uuid4(), slug="a", name="A", description="", instructions="", model="", temperature=None, max_output_tokens=None,
    max_iterations=None, history_token_budget=1000, tools=None, is_default=False, fallback_models=(), prompting="native",
    planning=True, output_schema=None, guardrails=frozenset(), summarise_history=True,
)  # fmt: skip


def said(number: int, tokens: int = 100) -> StoredTurn:
    """A turn of about so many tokens."""
    words = "x" * ((tokens - 8) * 2)
    return StoredTurn(number, [
        {"id": f"u{number}", "role": "user", "content": words}, {"id": f"a{number}", "role": "assistant", "content": words},
    ])  # fmt: skip


def messages(*turns: StoredTurn) -> list[dict[str, Any]]:
    return [message for turn in turns for message in turn.messages]


def positions(turns: list[StoredTurn]) -> list[int]:
    return [turn.position for turn in turns]


def test_a_thread_that_fits_is_left_alone() -> None:
    turns = [said(number) for number in range(1, 9)]
    assert memory.due(turns, 0, 1000) == []
    assert not memory.has_outgrown(messages(*turns), None, AGENT)
    assert memory.has_outgrown(messages(*turns, said(9)), None, AGENT)
    assert not memory.has_outgrown(messages(*turns, said(9)), None, replace(AGENT, summarise_history=False))


def test_the_older_part_is_summarised_before_anything_is_left_out() -> None:
    turns = [said(number) for number in range(1, 10)]
    assert memory.shown(messages(*turns), None, 1000) == messages(*turns)
    assert positions(memory.due(turns, 0, 1000)) == [1, 2, 3, 4, 5]


def test_the_last_turn_always_stays_and_no_more_is_summarised_at_once_than_the_budget() -> None:
    assert positions(memory.due([said(1), said(2, tokens=5000)], 0, 1000)) == [1]
    assert positions(memory.due([said(number, tokens=400) for number in range(1, 12)], 0, 1000)) == [1, 2]
    assert memory.due([said(1, tokens=5000)], 0, 1000) == []


def test_what_stays_begins_with_a_user() -> None:
    answered = StoredTurn(6, [{"id": "t6", "role": "tool", "toolCallId": "c", "content": "12:00"}])
    turns = [
        *(said(number) for number in range(1, 6)),
        answered,
        *(said(number, tokens=130) for number in range(7, 10)),
    ]
    assert positions(memory.due(turns, 0, 1000)) == [1, 2, 3, 4]


def test_the_model_is_shown_the_summary_and_what_is_newer() -> None:
    turns = [said(number) for number in range(1, 10)]
    remembered = Memory("They like tea.", "a5", 10)
    first, *rest = memory.shown(messages(*turns), remembered, 1000)
    assert first["content"] == f"{MEMORY_TITLE}\nThey like tea."
    assert rest == messages(*turns[5:])
    assert not memory.has_outgrown(messages(*turns), remembered, AGENT)
    tight = memory.shown(messages(*turns), replace(remembered, tokens=900), 1000)
    assert tight[1:] == messages(turns[-1])


def test_a_summary_does_not_tell_of_what_comes_later() -> None:
    loaded = messages(*(said(number) for number in range(1, 10)))
    remembered = Memory("They like tea.", "a5", 10)
    assert memory.applicable(remembered, loaded, loaded) == remembered
    assert memory.applicable(remembered, loaded, loaded[:5]) is None
    assert memory.applicable(replace(remembered, last_message_id="older"), loaded, loaded) is not None


def test_the_summary_is_asked_for_with_the_former_one_and_everything_cut() -> None:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "get_weather_tool", "arguments": '{"location": "Rome"}'},
    }
    turn = StoredTurn(3, [
        {"id": "u", "role": "user", "content": [{"type": "text", "text": "Weather?"}, {"type": "image", "source": {}}]},
        {"id": "r", "role": "reasoning", "content": "secret thoughts"},
        {"id": "a", "role": "assistant", "content": "I look.", "toolCalls": [call]},
        {"id": "t", "role": "tool", "toolCallId": "c", "content": "sunny\n" * 5000},
    ])  # fmt: skip
    request = memory.summary_request("m", "They like tea.", [turn], 1000)
    asked = request.messages[-1]["content"]
    assert asked.startswith("# Former summary\nThey like tea.\n\n# Conversation\nUser: Weather? [image]\n")
    assert (
        'Assistant: I look.\nAssistant called get_weather_tool with {"location": "Rome"}\nResult of a tool: sunny'
        in asked
    )
    assert "secret" not in asked
    assert len(asked) < 2500
    assert request.tools == []
    assert len(memory.as_memory_text("x" * 9000, 1000)) == 2000


@pytest.mark.parametrize("budget", [0, 1, memory.SMALLEST_BUDGET - 1])
def test_an_agent_with_next_to_no_budget_remembers_nothing(budget: int) -> None:
    turns = [said(number) for number in range(1, 6)]
    assert memory.due(turns, 0, budget) == []
    assert not memory.has_outgrown(messages(*turns), None, replace(AGENT, history_token_budget=budget))
