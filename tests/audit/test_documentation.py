"""docs/audit.md says what the code does."""

import re
from pathlib import Path

import orjson

from audit import actions
from audit.actor import SYSTEM
from audit.entry import entry

DOCUMENT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()


def names_in_section(title: str) -> set[str]:
    """The names in code style in the first column of the section's table."""
    section = DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_action_is_documented():
    assert names_in_section("What is recorded") == set(actions.ALL)


def test_every_field_of_the_envelope_is_documented():
    fields = orjson.loads(entry(actions.RUN_STARTED, actor=SYSTEM).envelope)

    assert names_in_section("The envelope, version 1") == set(fields)
