"""docs/models.md against the code."""

from __future__ import annotations

import re
from pathlib import Path

from agentbackend.foundation.problems import PROBLEMS
from orchestration.demo_model.script import HELP, answer


def test_every_failure_of_the_model_is_described(project_root: Path) -> None:
    text = (project_root / "docs/models.md").read_text()
    assert set(re.findall(r"^\| `(model_\w+)` \|", text, re.MULTILINE)) == {
        code for code in PROBLEMS if code.startswith("model_")
    }


def test_every_phrase_that_is_described_is_understood(project_root: Path) -> None:
    text = (project_root / "docs/models.md").read_text()
    phrases = re.findall(r"`(demo: [a-z0-9 ]+)`", text)
    assert len(phrases) >= 11
    for phrase in phrases:
        assert HELP not in answer({"messages": [{"role": "user", "content": phrase}]}).text, phrase
