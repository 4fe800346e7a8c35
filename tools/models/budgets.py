"""Budgets: how much may be used in a time, what was used in each window, and what runs that are going on have reserved.

Use and reservations are written in SQL by `tools.governance.budget_ledger` alone; the models are here for migrations and for the
console's reading. All amounts of them are whole numbers: tokens, runs, calls, and a billionth of a US dollar for costs.
"""

from __future__ import annotations

from decimal import Decimal

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.governance.budgets import Period, What
from tools.models.names import role_name, server_name


class Budget(models.Model):
    """What callers may use in a time. All budgets that match count, so the strictest decides."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=40, unique=True, validators=[server_name],
        help_text="Told to who is refused by it; it cannot be changed later.",
    )  # fmt: skip
    description = models.CharField(max_length=300, blank=True, db_default="", default="", help_text="For people: why.")
    enabled = models.BooleanField(default=True, db_default=True, help_text="Off: it neither counts nor refuses.")
    agent = models.CharField(
        max_length=64, blank=True, db_default="", default="",
        help_text="Slug of the agent whose runs count. Empty: all runs, and calls that no run makes (MCP).",
    )  # fmt: skip
    role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
        help_text="The caller's own role, not what it inherits; `user` stands for roles that nobody has described, too. Empty: any.",
    )  # fmt: skip
    user_id = models.CharField(
        max_length=128, blank=True, db_default="", default="", help_text="Id of the caller. Empty: any."
    )
    each_user = models.BooleanField(
        default=False, db_default=False,
        help_text="On: every caller that it matches has it for itself. Off: all of them share it.",
    )  # fmt: skip
    what = models.CharField(
        max_length=16, choices=[(what.value, what.value) for what in What],
        help_text="What is counted: tokens (in and out), cost in US dollars, runs, tool calls, or runs at the same time.",
    )  # fmt: skip
    limit = models.DecimalField(
        max_digits=19, decimal_places=6,
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(10**12))],
        help_text="How much: a whole number, for costs US dollars. 0: nothing.",
    )  # fmt: skip
    period = models.CharField(
        max_length=8, blank=True, db_default="", default="", choices=[(period.value, period.value) for period in Period],
        help_text="When it begins anew, in UTC. Empty for concurrent_runs, which know no time.",
    )  # fmt: skip
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class BudgetUse(models.Model):
    """What was used of a budget in one window: by everybody (`whose` empty), or by one caller."""

    pk = models.CompositePrimaryKey("budget_id", "whose", "window_start")
    # no constraint: the rows are written on the path of each model turn, and those of a budget that is gone are swept
    budget = models.ForeignKey(Budget, on_delete=models.DO_NOTHING, related_name="uses", db_constraint=False)
    whose = models.CharField(max_length=200, db_default="", help_text="The caller's id; empty: all share it.")
    window_start = models.DateTimeField(help_text="1970 for what knows no time.")
    used = models.BigIntegerField(db_default=0)
    reserved = models.BigIntegerField(db_default=0, help_text="What runs that are going on may still use.")
    bound = models.BigIntegerField(help_text="The limit when it was last counted.")
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        indexes = [
            models.Index(
                fields=["budget", "-window_start", "-used"], name="budget_use_by_window"
            ),  # the console's page
            models.Index(fields=["updated_at"], name="budget_use_by_age"),  # the sweep
        ]

    def __str__(self) -> str:
        return f"{self.whose or 'all'} from {self.window_start:%Y-%m-%d %H:%M}"


class BudgetReservation(models.Model):
    """What one run holds of a budget until it is settled. `slot`: what for (`run`, `turn 3`)."""

    pk = models.CompositePrimaryKey("run_id", "slot", "budget_id")
    run_id = models.UUIDField()
    slot = models.CharField(max_length=64)
    budget_id = models.UUIDField()
    whose = models.CharField(max_length=200, db_default="")
    window_start = models.DateTimeField()
    what = models.CharField(max_length=16)
    amount = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["created_at"], name="budget_reservation_by_age")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.slot}"
