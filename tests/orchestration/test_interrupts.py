"""What a run's `resume` says to the questions that are open in its thread."""

from __future__ import annotations

from typing import Any

import pytest

from agentbackend.foundation.problems import Problem
from orchestration.interrupts import OpenInterrupt, decide, decision_from
from orchestration.run_input import ResumeEntry
from tools.calls import ToolCall

OPEN = [
    OpenInterrupt("a", ToolCall("call_a", "pay_tool", "{}")),
    OpenInterrupt("b", ToolCall("call_b", "pay_tool", "{}")),
]


def answer(key: str, approved: Any = True, status: Any = "resolved") -> ResumeEntry:
    return ResumeEntry(key, status, {"approved": approved})


@pytest.mark.parametrize(
    ("resume", "approved"),
    [
        ([answer("a"), answer("b", approved=False)], [True, False]),
        ([answer("b"), answer("a", status="cancelled")], [False, True]),
        ([], [False, False]),
    ],
)
def test_each_question_has_its_answer(resume: list[ResumeEntry], approved: list[bool]) -> None:
    decisions = decide(OPEN, resume)
    assert [(decision.interrupt_id, decision.approved) for decision in decisions] == list(
        zip("ab", approved, strict=True)
    )
    assert [decision_from(decision.as_document()) for decision in decisions] == decisions


@pytest.mark.parametrize(
    ("resume", "field"),
    [
        ([answer("a")], "resume"),
        ([answer("a"), answer("b"), answer("c")], "resume"),
        ([answer("a"), answer("b", approved="yes")], "resume[b].payload"),
        ([answer("a"), ResumeEntry("b", "resolved", None)], "resume[b].payload"),
    ],
)
def test_answers_that_fit_no_question_or_leave_one_open_are_refused(resume: list[ResumeEntry], field: str) -> None:
    with pytest.raises(Problem) as refused:
        decide(OPEN, resume)
    assert (refused.value.code, refused.value.field) == ("invalid_input", field)


def test_without_questions_nothing_can_be_answered() -> None:
    assert decide([], []) == []
    with pytest.raises(Problem):
        decide([], [answer("a")])
