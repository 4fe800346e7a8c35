"""With which arguments a caller may call: pure functions on a loaded snapshot.

A rule binds one role, or (with an empty role) everybody. Of the rules for roles, those nearest to the caller's own count: a rule
for the caller's role takes the place of the rules of roles that it inherits, and so on upwards. So `manager`, who inherits
`analyst`, can be given a wider range than `analyst`. Rules for everybody always bind, `admin` too. A role that nobody has described
inherits `user`, here as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.governance.roles import ADMIN, USER, Inheritance
from tools.schemas import problems


@dataclass(frozen=True, slots=True)
class ArgumentCondition:
    """What arguments must fit beside the tool's own schema; `schema` is JSON text."""

    role: str
    schema: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """A condition that arguments do not fulfil, and where."""

    condition: ArgumentCondition
    problems: list[str]

    @property
    def explanation(self) -> str:
        """For the model, the user and the console."""
        whom = f"callers of the role {self.condition.role!r}" if self.condition.role else "all callers"
        because = f" ({self.condition.reason})" if self.condition.reason else ""
        return f"Some arguments are not allowed to {whom}{because}: {'; '.join(self.problems)}."


def first_unfit(
    arguments: object, actor_role: str, inheritance: Inheritance, conditions: Sequence[ArgumentCondition]
) -> Unfit | None:
    """The first condition that binds the caller and that the arguments do not fulfil, if any."""
    for condition in binding(actor_role, inheritance, conditions):
        found = problems(condition.schema, arguments)
        if found:
            return Unfit(condition, found)
    return None


def binding(
    actor_role: str, inheritance: Inheritance, conditions: Sequence[ArgumentCondition]
) -> list[ArgumentCondition]:
    """The conditions that bind a caller of this role: everybody's, then the nearest of its roles'."""
    if not conditions:
        return []
    role = actor_role or USER
    known = inheritance if role in inheritance or role in (ADMIN, USER) else {**inheritance, role: frozenset({USER})}
    nearest = _nearest(role, known, {condition.role for condition in conditions if condition.role})
    return sorted((c for c in conditions if not c.role or c.role in nearest), key=lambda condition: condition.role)


def _nearest(role: str, inheritance: Inheritance, ruled: set[str]) -> set[str]:
    """From this role up to the first that has a rule, along every line of inheritance."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [role]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in ruled:
            found.add(name)
        else:
            waiting.extend(inheritance.get(name, ()))
    return found
