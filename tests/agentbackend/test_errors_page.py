"""The page of errors says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from agentbackend.foundation.problems import PROBLEMS, ActsNext, Problem

_ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (.+?) \| (\w+) \| (yes|no) \|$", re.MULTILINE)


def test_the_page_lists_every_code_as_the_service_answers_it(project_root: Path) -> None:
    page = (project_root / "docs" / "errors.md").read_text()
    told = [(code, int(status), title, who, retry == "yes") for code, status, title, who, retry in _ROW.findall(page)]
    assert told == [
        (code, kind.status, kind.title, kind.acts_next.value, kind.retryable) for code, kind in PROBLEMS.items()
    ]


def test_the_page_explains_everybody_who_may_act_next(project_root: Path) -> None:
    page = (project_root / "docs" / "errors.md").read_text()
    for who in ActsNext:
        assert f"\n| {who.value} | " in page


def test_the_example_document_has_the_fields_of_a_real_one(project_root: Path) -> None:
    page = (project_root / "docs" / "errors.md").read_text()
    example = page.partition("```json\n")[2].partition("```")[0]
    body = Problem("invalid_input", "...", field="messages[0].content").body("...").decode()
    assert re.findall(r'"(\w+)":', example) == re.findall(r'"(\w+)":', body)
