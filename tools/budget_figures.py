"""What was used of budgets, as pages show it: the window that is open now, the ones before it, and who used most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Count, F, Max, Q, Sum
from django.utils import timezone

from tools.governance.budgets import Period, What, bound_of, shown_amount
from tools.models import Budget, BudgetUse

LAST_WINDOWS: Final = 24
TOP_USERS: Final = 20
_TIMELESS: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Figure:
    """What was used and reserved together, of how much, by whom (empty: all) or in which window."""

    of: What
    amount: int
    reserved: int
    bound: int
    name: str = ""
    users: int = 0

    @property
    def shown(self) -> str:
        """The amount, and how much of it is only reserved."""
        text = f"{shown_amount(self.of, self.amount)} of {shown_amount(self.of, self.bound)}"
        if not self.reserved or self.of is What.CONCURRENT_RUNS:
            return text
        return f"{text} ({shown_amount(self.of, self.reserved)} reserved)"

    @property
    def percent(self) -> int:
        """How much of the limit that is, at most 100."""
        return min(100, self.amount * 100 // self.bound) if self.bound else 100


def window_start(period: str, now: datetime) -> datetime:
    """When the window that is open now has begun; as the database reckons it."""
    now = now.astimezone(UTC)
    match period:
        case Period.MINUTE:
            return now.replace(second=0, microsecond=0)
        case Period.HOUR:
            return now.replace(minute=0, second=0, microsecond=0)
        case Period.DAY:
            return now.replace(hour=0, minute=0, second=0, microsecond=0)
        case Period.MONTH:
            return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        case _:
            return _TIMELESS


def renewal(period: str, now: datetime) -> datetime | None:
    """When the next window begins; None for what knows no time."""
    if not period:
        return None
    start = window_start(period, now)
    longest = {"minute": 60, "hour": 3600, "day": 86400, "month": 31 * 86400}[period]
    return window_start(period, start + timedelta(seconds=longest))


def now_used(budgets: Iterable[Budget]) -> dict[UUID, Figure]:
    """What is used of each now; where each caller has a budget, by the one who used most. One query for all."""
    listed, now = list(budgets), timezone.now()
    by_id = {budget.pk: budget for budget in listed}
    open_now = Q()
    for period in {budget.period for budget in listed}:
        ids = [budget.pk for budget in listed if budget.period == period]
        open_now |= Q(budget_id__in=ids, window_start=window_start(period, now))
    rows = (
        BudgetUse.objects.filter(open_now)
        .values("budget_id")
        .annotate(most=Max(F("used") + F("reserved")), held=Max("reserved"), users=Count("whose"))
        if listed
        else ()
    )
    found = {budget.pk: Figure(What(budget.what), 0, 0, bound(budget)) for budget in listed}
    for row in rows:
        budget = by_id[row["budget_id"]]
        found[budget.pk] = Figure(What(budget.what), row["most"], row["held"], bound(budget), users=row["users"])
    return found


def top_users(budget: Budget) -> Sequence[Figure]:
    """Who used most in the window that is open now; where all share the budget, all of them together."""
    rows = BudgetUse.objects.filter(budget=budget, window_start=window_start(budget.period, timezone.now()))
    return [
        Figure(What(budget.what), row.used + row.reserved, row.reserved, bound(budget), row.whose)
        for row in rows.order_by((F("used") + F("reserved")).desc())[:TOP_USERS]
    ]


def last_windows(budget: Budget) -> Sequence[Figure]:
    """The windows in which anything was used, the latest first: of all callers together, with the limit of then."""
    rows = (
        BudgetUse.objects.filter(budget=budget)
        .values("window_start")
        .annotate(total=Sum(F("used") + F("reserved")), held=Sum("reserved"), most=Max("bound"), users=Count("whose"))
        .order_by("-window_start")[:LAST_WINDOWS]
    )
    return [
        Figure(
            What(budget.what), int(row["total"]), int(row["held"]), row["most"] * (row["users"] if budget.each_user else 1),
            f"{row['window_start'].astimezone(UTC):%Y-%m-%d %H:%M}", row["users"],
        )
        for row in rows
    ]  # fmt: skip


def bound(budget: Budget) -> int:
    """The limit in whole parts."""
    return bound_of(What(budget.what), budget.limit)
