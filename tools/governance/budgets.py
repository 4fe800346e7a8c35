"""Budgets as the run path sees them: whom each one binds, and what it means to be over one. Pure; the counting is SQL
(`tools.governance.budget_ledger`).

Reserved before, settled after: an estimate is set aside before a model turn and replaced by what was really used when the turn is
over, so that runs side by side cannot use the same rest twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from math import ceil
from typing import Any, Final
from uuid import UUID

from audit.actor import DEFAULT_TENANT, Actor
from tools.governance.roles import ADMIN, USER, Inheritance

NANO: Final = 10**9
"""Parts of a US dollar that costs are counted in."""


class What(StrEnum):
    """What a budget counts."""

    TOKENS = "tokens"
    COST = "cost"
    RUNS = "runs"
    TOOL_CALLS = "tool_calls"
    CONCURRENT_RUNS = "concurrent_runs"


class Period(StrEnum):
    """When a budget begins anew: windows of the calendar in UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


_WORDS: Final = {
    What.TOKENS: ("token", "tokens"),
    What.COST: ("US dollars", "US dollars"),
    What.RUNS: ("run", "runs"),
    What.TOOL_CALLS: ("tool call", "tool calls"),
    What.CONCURRENT_RUNS: ("run at the same time", "runs at the same time"),
}
_A_PERIOD: Final = {Period.MINUTE: "a minute", Period.HOUR: "an hour", Period.DAY: "a day", Period.MONTH: "a month"}


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget that is on. `bound` counts whole parts: tokens, runs, calls, nano-dollars."""

    id: UUID
    name: str
    agent: str
    role: str
    user_id: str
    each_user: bool
    what: What
    bound: int
    period: Period | None

    def binds(self, agent: str, actor: Actor, inheritance: Inheritance) -> bool:
        """Whether it counts what this caller does with this agent (empty: without one)."""
        if self.agent and self.agent != agent:
            return False
        if self.user_id and self.user_id != actor.id:
            return False
        return not self.role or self.role == _role_of(actor, inheritance)

    def whose(self, actor: Actor) -> str:
        """Under whom its use is counted: the caller, or nobody in particular."""
        if not self.each_user:
            return ""
        return actor.id if actor.tenant == DEFAULT_TENANT else f"{actor.tenant}/{actor.id}"

    @property
    def policy_version(self) -> str:
        """What the audit trail names as the deciding version: name, limit and period."""
        period = f"/{self.period}" if self.period else ""
        return f"{self.name}:{shown_amount(self.what, self.bound)}{period}:{self.what}"

    def in_words(self) -> str:
        """The limit as people say it, without what anybody has used."""
        return limit_in_words(self.what, self.bound, self.period)


def _role_of(actor: Actor, inheritance: Inheritance) -> str:
    """The role that budgets know the caller by: a role that nobody has described is worth a `user`."""
    role = actor.role or USER
    return role if role in inheritance or role == ADMIN else USER


@dataclass(frozen=True, slots=True)
class Amounts:
    """What something uses, or may use. `cost` in nano-dollars; None: not known, because the model has no price."""

    tokens: int = 0
    cost: int | None = 0
    runs: int = 0
    tool_calls: int = 0
    concurrent_runs: int = 0

    def of(self, what: What) -> int | None:
        """How much of this it is."""
        found: int | None = getattr(self, what.value)
        return found


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one budget for one caller now, in whole parts; `renews_at` None: it knows no time."""

    rule: BudgetRule
    left: int
    renews_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """For prompts and answers: `{budget, what, left, renewsAt}`."""
        return {
            "budget": self.rule.name,
            "what": self.rule.what.value,
            "left": shown_amount(self.rule.what, max(0, self.left)),
            "renewsAt": as_text(self.renews_at),
        }


class OverBudgetError(Exception):
    """What was asked for does not fit into a budget. `unpriced`: it cannot be counted, since the model has no price. `amount`: how much
    was asked for, where that is known.

    The message is for whoever asked: it names the budget, its limit and when it renews, and nobody's use.
    """

    def __init__(
        self,
        rule: BudgetRule,
        renews_at: datetime | None,
        seconds: float,
        *,
        unpriced: bool = False,
        amount: int | None = None,
    ) -> None:
        self.rule = rule
        self.amount = amount
        self.renews_at = renews_at
        self.seconds = seconds
        self.unpriced = unpriced
        super().__init__(self._text())

    @property
    def is_hopeless(self) -> bool:
        """Whether the whole budget is too small, so that no renewal can help."""
        return self.amount is not None and self.amount > self.rule.bound

    @property
    def retry_after(self) -> int:
        """Seconds until it can help to ask again, at least one."""
        return max(1, ceil(self.seconds))

    def as_extra(self) -> dict[str, str]:
        """For programs: which budget, and when it renews, if it does; or that a price is missing, or the limit too small."""
        if self.unpriced:
            return {"budget": self.rule.name, "cause": "no_price"}
        if self.is_hopeless:
            return {"budget": self.rule.name, "cause": "too_small"}
        renews = {"renewsAt": as_text(self.renews_at)} if self.renews_at else {}
        return {"budget": self.rule.name, **renews}

    def _text(self) -> str:
        name = f"The budget {self.rule.name} ({self.rule.in_words()})"
        if self.unpriced:
            return f"{name} counts costs, and the model has no price. An operator of this service can set one."
        if self.is_hopeless:
            needed = f"{shown_amount(self.rule.what, self.amount or 0)} may be needed at once"
            return f"{name} is too small: {needed}. An operator of this service can raise it."
        if self.renews_at is None:
            return f"{name} is used up at the moment. Try again when another run has ended."
        stand = "has too little left for another answer" if (self.amount or 0) > 1 else "is used up"
        return f"{name} {stand}. It renews at {as_text(self.renews_at)}."


def binding(
    rules: Iterable[BudgetRule], agent: str, actor: Actor, inheritance: Inheritance, *what: What
) -> list[BudgetRule]:
    """The budgets that count for this caller and agent; only those that count `what`, where some is given."""
    return [rule for rule in rules if (not what or rule.what in what) and rule.binds(agent, actor, inheritance)]


def bound_of(what: What, limit: Decimal) -> int:
    """A limit as people write it in whole parts."""
    return int(limit * NANO) if what is What.COST else int(limit)


def nano_dollars(cost: Decimal) -> int:
    """A cost in whole parts, rounded up: what costs something is never free."""
    return int((cost * NANO).to_integral_value(ROUND_CEILING))


def shown_amount(what: What, amount: int) -> str:
    """An amount as people read it: whole, or dollars without needless zeros."""
    if what is not What.COST:
        return str(amount)
    whole, _, fraction = f"{Decimal(amount) / NANO:.9f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def limit_in_words(what: What, bound: int, period: Period | None) -> str:
    """A limit as people say it: `2 runs in an hour`."""
    one, many = _WORDS[what]
    within = f" in {_A_PERIOD[period]}" if period else ""
    return f"{shown_amount(what, bound)} {one if bound == 1 else many}{within}"


def as_text(moment: datetime | None) -> str:
    """A moment as ISO 8601 in UTC; empty when there is none."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else ""


def rule_from(row: Mapping[str, Any]) -> BudgetRule:
    """A budget's row; raises ValueError when it cannot be read."""
    what = What(row["what"])
    return BudgetRule(
        id=row["id"],
        name=row["name"],
        agent=row["agent"],
        role=row["role"],
        user_id=row["user_id"],
        each_user=row["each_user"],
        what=what,
        bound=bound_of(what, row["limit"]),
        period=Period(row["period"]) if row["period"] else None,
    )
