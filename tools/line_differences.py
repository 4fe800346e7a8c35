"""What two definitions say differently, line by line, for people."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from tools.documents import Spec, differences

LINES_AROUND: Final = 3
_FROM_THE_FIRST_LINE = re.compile(r"@@ -[01](,|\s)")  # nothing was skipped before it
_KINDS = {"+": "added", "-": "removed", "@": "skipped"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a difference: `kind` is same, added, removed or skipped."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that changes: short values beside each other, `lines` where it has several."""

    name: str
    before: str
    after: str
    lines: list[Line]


def field_differences(before: Spec, after: Spec) -> list[FieldDifference]:
    """The fields that differ, in the order of `after`."""
    return [_of_field(name, values["before"], values["after"]) for name, values in differences(before, after).items()]


def line_differences(before: str, after: str) -> list[Line]:
    """A unified difference of two texts, without its heading."""
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), n=LINES_AROUND, lineterm="")
    return [_line(text) for text in list(found)[2:] if not _FROM_THE_FIRST_LINE.match(text)]


def _of_field(name: str, before: Any, after: Any) -> FieldDifference:
    old, new = _written(before), _written(after)
    is_long = "\n" in old or "\n" in new or isinstance(before, dict) or isinstance(after, dict)
    return FieldDifference(name, old, new, line_differences(old, new) if is_long else [])


def _line(text: str) -> Line:
    kind = _KINDS.get(text[:1], "same")
    return Line(kind, "…" if kind == "skipped" else text)


def _written(value: Any) -> str:
    """As people read it: texts as they are, everything else as JSON."""
    if value is None or value in ("", []):
        return "(nothing)"
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
