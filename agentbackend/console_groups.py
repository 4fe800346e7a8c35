"""The console's groups and what each may do. They say nothing about callers' roles, which the gateway names.

- Administrators configure: agents, models, tools, caller roles, rules, budgets, users, and decide each other's changes. They do not
  read conversations or audit payloads.
- Compliance reads everything that was recorded, and changes nothing.
- Operators see that and how things run, without what was said.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib.auth.models import Group, Permission
from django.db import DEFAULT_DB_ALIAS

ADMINISTRATORS: Final = "Administrators"
COMPLIANCE: Final = "Compliance"
OPERATORS: Final = "Operators"

_EVERY = ("add", "change", "delete", "view")


def _permissions(app: str, model: str, *verbs: str) -> set[tuple[str, str]]:
    return {(app, f"{verb}_{model}") for verb in verbs}


_SEES_RUNNING = (
    _permissions("orchestration", "agent", "view")
    | _permissions("orchestration", "thread", "view")
    | _permissions("orchestration", "run", "view")
    | _permissions("orchestration", "step", "view")
    | _permissions("orchestration", "interrupt", "view")
    | _permissions("tools", "tool", "view")
    | _permissions("tools", "toolversion", "view")
    | _permissions("tools", "callerrole", "view")
    | _permissions("tools", "denyrule", "view")
    | _permissions("tools", "argumentrule", "view")
    | _permissions("tools", "changerequest", "view")
    | _permissions("tools", "budget", "view")
    | _permissions("orchestration", "modelprovider", "view")
    | _permissions("orchestration", "modelprice", "view")
    | _permissions("tools", "remoteserver", "view")
    | _permissions("tools", "remotetool", "view")
    | _permissions("a2a", "remoteagent", "view")
    | _permissions("a2a", "task", "view")
    | _permissions("tools", "storedcredential", "view")
    | _permissions("tools", "guardrailpolicy", "view")
)

GROUPS: Final[dict[str, set[tuple[str, str]]]] = {
    ADMINISTRATORS: _SEES_RUNNING
    | _permissions("procrastinate", "procrastinatejob", "view")
    | _permissions("orchestration", "agent", *_EVERY)
    | _permissions("tools", "tool", "add", "change", "view")
    | _permissions("tools", "toolversion", "add", "view")
    | _permissions("tools", "callerrole", *_EVERY)
    | _permissions("tools", "denyrule", *_EVERY)
    | _permissions("tools", "argumentrule", *_EVERY)
    | _permissions("tools", "storedcredential", *_EVERY)
    | _permissions("tools", "guardrailpolicy", "add", "change", "view")
    | _permissions("tools", "remoteserver", *_EVERY)
    | _permissions("a2a", "remoteagent", *_EVERY)
    | _permissions("tools", "budget", *_EVERY)
    | _permissions("orchestration", "modelprovider", *_EVERY)
    | _permissions("orchestration", "modelprice", *_EVERY)
    | _permissions("auth", "user", *_EVERY)
    | _permissions("auth", "group", "view")
    | _permissions("audit", "auditevent", "view")
    | {("orchestration", "use_playground"), ("orchestration", "decide_interrupt"), ("tools", "decide_changerequest")},
    COMPLIANCE: _SEES_RUNNING
    | _permissions("orchestration", "conversationturn", "view")
    | _permissions("tools", "note", "view")
    | _permissions("audit", "auditevent", "view")
    | _permissions("audit", "auditpayload", "view")
    | _permissions("auth", "user", "view")
    | _permissions("auth", "group", "view"),
    OPERATORS: _SEES_RUNNING
    | _permissions("procrastinate", "procrastinatejob", "view")
    | _permissions("audit", "auditevent", "view")
    | {("orchestration", "use_playground"), ("orchestration", "decide_interrupt")},
}


def ensure_console_groups(using: str = DEFAULT_DB_ALIAS) -> None:
    """Make the groups and give them their permissions; what somebody added to a group stays. Can be repeated."""
    known = {
        (permission.content_type.app_label, permission.codename): permission
        for permission in Permission.objects.using(using).select_related("content_type")
    }
    for name, wanted in GROUPS.items():
        group, _ = Group.objects.using(using).get_or_create(name=name)
        group.permissions.add(*(known[key] for key in wanted if key in known))


def ensure_after_migrate(using: str = DEFAULT_DB_ALIAS, **_: Any) -> None:
    """Receiver of post_migrate: a new version's permissions reach the groups with its migrations."""
    ensure_console_groups(using)
