"""Who may use what: pure functions on a loaded snapshot of roles and deny rules.

The order, first match decides:

1. a deny rule for one of the caller's roles, or for everybody: denied, `admin` too;
2. an empty `required_role`: any authenticated caller;
3. the caller's own role is the required one: allowed;
4. `admin` passes every `required_role`;
5. what requires `admin` is admin-only: inheritance does not help;
6. one of the roles that the caller's role inherits is the required one: allowed;
7. otherwise denied.

A caller's roles are its own, those it inherits, and `user` when nobody has described its own role. So a role
that the gateway names and the registry does not know is worth as much as `user`, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

USER: Final = "user"
ADMIN: Final = "admin"

Inheritance: TypeAlias = Mapping[str, frozenset[str]]
"""Each described role and the roles that it inherits directly."""


@dataclass(frozen=True, slots=True)
class Deny:
    """A rule that forbids a tool: to a role and all that inherit it, or to everybody (`role` empty)."""

    role: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a caller may use a thing: a stable code for the audit trail and a sentence for people."""

    allowed: bool
    reason_code: str
    explanation: str


class CircularRoleError(ValueError):
    """A role would inherit itself."""


def may_use(actor_role: str, required_role: str, inheritance: Inheritance, denies: Sequence[Deny] = ()) -> Decision:
    """Decide as the module's text says; a caller without a role is a `user`."""
    role = actor_role or USER
    roles = roles_of(role, inheritance)
    for deny in denies:
        if not deny.role or deny.role in roles:
            return _denied_by(deny, role)
    if not required_role:
        return Decision(True, "any_role", "It requires no role.")
    if role == required_role:
        return Decision(True, "same_role", f"It requires the role {required_role!r}, which the caller has.")
    if role == ADMIN:
        return Decision(True, "admin", f"It requires the role {required_role!r}; {ADMIN!r} passes.")
    if required_role == ADMIN:
        return Decision(False, "admin_only", f"It is for the role {ADMIN!r} alone; the caller's is {role!r}.")
    if required_role in roles:
        return Decision(True, "inherited_role", f"The caller's role {role!r} includes {required_role!r}.")
    return Decision(False, "role_required", f"It requires the role {required_role!r}; the caller's is {role!r}.")


def roles_of(role: str, inheritance: Inheritance) -> frozenset[str]:
    """The role and everything that it inherits; a role that nobody has described counts as `user`, too."""
    found: set[str] = set()
    waiting = [role]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(inheritance.get(name, ()))
    if role not in inheritance and role != ADMIN:
        return frozenset(found) | (roles_of(USER, inheritance) if role != USER else frozenset())
    return frozenset(found)


def check_inheritance(role: str, inherits: frozenset[str], inheritance: Inheritance) -> None:
    """Raise CircularRoleError if `role`, inheriting these, would inherit itself; `inheritance` may hold its
    former state.
    """
    for parent in sorted(inherits):
        if role in roles_of(parent, {**inheritance, role: frozenset()}):
            raise CircularRoleError(f"the role {role!r} would inherit itself through {parent!r}")


def _denied_by(deny: Deny, role: str) -> Decision:
    whom = f"the role {deny.role!r}" if deny.role else "everybody"
    because = f": {deny.reason}" if deny.reason else ""
    return Decision(False, "deny_rule", f"A rule forbids it to {whom}{because} (the caller's role is {role!r}).")
