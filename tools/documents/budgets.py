"""Budgets as documents: how they are read, checked and written, whoever changes them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.configuration.kinds import KindConfiguration, configure_kind
from tools.documents.document import Spec, differences, register_kind
from tools.documents.fields import completed
from tools.governance.budgets import What
from tools.models import Budget, BudgetUse
from tools.models.names import SERVER_NAME_PATTERN

_MOST_DOLLARS = 10**9
_ANOTHER_COUNT = ("what", "period", "each_user")
"""Fields whose change makes what was counted so far meaningless."""


class BudgetKind:
    """A budget, under its name."""

    name = "Budget"
    group = "budgets"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "description": (str, ""),
        "enabled": (bool, True),
        "agent": (str, ""),
        "role": (str, ""),
        "user_id": (str, ""),
        "each_user": (bool, False),
        "what": (str, ...),
        "limit": (float, ...),
        "period": (str, ""),
    }

    def names(self) -> list[str]:
        """All budgets."""
        return list(Budget.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """Its fields; the limit as a number."""
        found: Spec | None = Budget.objects.filter(name=name).values(*self.fields).first()
        return None if found is None else {**found, "limit": float(found["limit"])}

    def complete(self, spec: Spec) -> Spec:
        """What is counted and how much of it must be given."""
        return completed(spec, self.fields)

    def check(self, name: str, spec: Spec) -> None:
        """A time for all but what is counted at one moment, and whole numbers for all but costs."""
        _row(name, spec).full_clean(validate_unique=False, validate_constraints=False)
        problems: dict[str, list[str]] = {}
        what = What(spec["what"])
        if what is What.CONCURRENT_RUNS and spec["period"]:
            problems["period"] = ["Runs at the same time know no time: leave it empty."]
        if what is not What.CONCURRENT_RUNS and not spec["period"]:
            problems["period"] = ["Say when it begins anew."]
        if what is not What.COST and not spec["limit"].is_integer():
            problems["limit"] = ["A whole number."]
        if what is What.COST and spec["limit"] > _MOST_DOLLARS:
            problems["limit"] = [f"At most {_MOST_DOLLARS:,} US dollars."]
        if problems:
            raise ValidationError(problems)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the budget. What was used stays counted, unless something else is counted now."""
        before = self.read(name)
        budget, _ = Budget.objects.update_or_create(name=name, defaults={**spec, "limit": _limit(spec)})
        if before is not None and any(before[field] != spec[field] for field in _ANOTHER_COUNT):
            BudgetUse.objects.filter(budget_id=budget.pk).delete()
        _record(budget, before, spec, by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """With what was counted; what runs have reserved of it is let go when they end."""
        budget = Budget.objects.get(name=name)
        _record(budget, self.read(name), None, by, note)
        BudgetUse.objects.filter(budget_id=budget.pk).delete()
        budget.delete()


def _row(name: str, spec: Spec) -> Budget:
    return Budget(name=name, **{**spec, "limit": _limit(spec)})


def _limit(spec: Spec) -> Decimal:
    """The number as it was written, not as a binary fraction."""
    return Decimal(repr(spec["limit"]))


def _record(budget: Budget, before: Spec | None, after: Spec | None, by: Actor, note: str) -> None:
    details = {"name": budget.name, "note": note, "changes": differences(before, after)}
    target = Target(budget._meta.label_lower, str(budget.pk))
    audit.record(actions.BUDGET_CHANGED, actor=by, target=target, details=details)


register_kind(BudgetKind())
configure_kind(
    "Budget",
    KindConfiguration(
        folder="budgets",
        name_pattern=SERVER_NAME_PATTERN,
        about="How much may be used in a time: tokens, cost, runs, tool calls, or runs at the same time. docs/budgets.md says more.",
        models=(Budget,),
    ),
)
