"""Answers in the wrong form: the model is shown what it said and told what was wrong, so that it can mend it.

A rejected answer and its correction are no messages of the thread. The journal keeps them with their model turn, and they are shown to
the model until it has answered in the form that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentbackend.foundation.problems import Problem
from orchestration.model_port import Finished, Rejection

MAX_CORRECTIONS = 2
"""How often in a row a model may mend an answer; each try is a model turn."""
MAX_SAID = 4000
BEGINNING = "Your last answer could not be used, and the user did not see it."
_CUT_OFF = " It reached the limit of its length: make it shorter."
_GIVEN_UP = {
    "model_invalid_response": "The model's answer could not be understood, though it was told {times} times what was wrong.",
    "invalid_structured_answer": "The model gave no answer of the required form, though it was told {times} times what was wrong.",
}


def rejection(code: str, said: str, problem: str, mend: str, finished: Finished) -> Rejection:
    """What becomes of an answer that cannot be used because of `problem`; `mend` says what is asked for."""
    hint = _CUT_OFF if finished.reason == "length" else ""
    shown = said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}... (cut)"
    return Rejection(code, shown, f"{BEGINNING} {problem}{hint} {mend}")


def as_messages(corrections: Sequence[Rejection]) -> list[dict[str, Any]]:
    """What stands at the end of the conversation that the model is shown."""
    return [
        message
        for told in corrections
        for message in (
            {"role": "assistant", "content": told.said or "(nothing)"},
            {"role": "user", "content": told.correction},
        )
    ]


def require_hope(corrections: Sequence[Rejection]) -> None:
    """Raise Problem when the model was told often enough."""
    if len(corrections) > MAX_CORRECTIONS:
        code = corrections[-1].code
        raise Problem(code, _GIVEN_UP[code].format(times=MAX_CORRECTIONS))
