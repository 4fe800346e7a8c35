"""Who may decide what a run asked: pure functions on who somebody is.

The asker decides about their own calls, where the tool does not want somebody else; they may always withdraw a call. Where somebody
else must decide, it is a caller of the role that the tool names, or a person of the console, and never the asker under another name:
ids, the person on whose behalf a service acts, and e-mail addresses are compared.
"""

from __future__ import annotations

from audit.actor import Actor
from tools.governance.approvals import Decider
from tools.governance.roles import Inheritance, may_use


def is_same_person(asker: Actor, other: Actor, *, other_ids: frozenset[str] = frozenset()) -> bool:
    """Whether these are one person, as far as that is known. `other_ids`: further ids of the other one."""
    ids = {other.id, other.on_behalf_of, *other_ids} - {""}
    if ids & {asker.id, asker.on_behalf_of}:
        return True
    return bool(asker.email) and asker.email.strip().casefold() == other.email.strip().casefold()


def may_decide_by_role(asker: Actor, caller: Actor, decider: Decider, approver_role: str, roles: Inheritance) -> bool:
    """Whether a caller who did not ask may decide: of the same tenant, with the role that the tool names."""
    if decider is not Decider.SOMEONE_ELSE or not approver_role or caller.tenant != asker.tenant:
        return False
    return may_use(caller.role, approver_role, roles).allowed
