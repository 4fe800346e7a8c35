"""How pages show what a change says: the fields that differ, with everything taken out that may be a secret.

What stands under a name that says so (`password`, `secret`, `apiKey`) is replaced; that it differs is still told. Fields that hold
the *names* of credentials are shown: who approves a change must see which credential goes where. In schemas a name is that of an
argument, and says nothing of a value.
"""

from __future__ import annotations

from typing import Any, Final

from audit.redaction import REDACTED, is_secret_name
from tools.credentials import name_problem
from tools.documents import Spec
from tools.line_differences import FieldDifference, field_differences

_CHANGED: Final = "[redacted: another value]"
_NAMES_OF_CREDENTIALS: Final = frozenset(
    {"credential", "credentials", "required_credentials", "credential_placement", "credential_header"}
)
_SCHEMAS: Final = frozenset({"input_schema", "output_schema", "schema"})


def shown_changes(before: Spec | None, after: Spec | None) -> list[FieldDifference]:
    """The fields that differ, for people; a thing that comes or goes has nothing on the other side."""
    old, new = before or {}, after or {}
    return field_differences(
        {name: value if _is_shown(name) else _masked(name, value, value) for name, value in old.items()},
        {name: value if _is_shown(name) else _masked(name, value, old.get(name)) for name, value in new.items()},
    )


def _is_shown(name: str) -> bool:
    return name in _SCHEMAS or name in _NAMES_OF_CREDENTIALS


def _hides(name: str, value: Any) -> bool:
    if name in _NAMES_OF_CREDENTIALS:  # within a handler's settings
        return isinstance(value, str) and bool(name_problem(value))
    return is_secret_name(name)


def _masked(name: str, value: Any, former: Any) -> Any:
    """The value without secrets, where `former` is what stood in its place before."""
    if _hides(name, value):
        return _mark(value, former)
    if isinstance(value, dict):
        old = former if isinstance(former, dict) else {}
        return {key: _masked(str(key), item, old.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        rows = former if isinstance(former, list) else []
        return [_masked("", item, rows[at] if at < len(rows) else None) for at, item in enumerate(value)]
    return value


def _mark(value: Any, former: Any) -> Any:
    if value in (None, "", [], {}):
        return value
    return REDACTED if value == former else _CHANGED
