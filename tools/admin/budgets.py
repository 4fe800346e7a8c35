"""Budgets in the console: what is allowed, and what was used of it, now and before.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from tools.admin.documents import DocumentAdmin, DocumentForm
from tools.budget_figures import LAST_WINDOWS, TOP_USERS, bound, last_windows, now_used, renewal, top_users
from tools.documents import Spec
from tools.governance.budgets import Period, What, limit_in_words
from tools.models import Budget

_SAID = ("description", "enabled", "agent", "role", "user_id", "each_user", "what", "limit", "period")


class BudgetForm(DocumentForm):
    """A budget."""

    kind = "Budget"

    class Meta:
        model = Budget
        fields = ("name", *_SAID)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.initial.get("limit") is not None:
            self.initial["limit"] = f"{self.initial['limit'].normalize():f}"

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        said = {field: self.cleaned_data[field] for field in _SAID}
        return {**said, "limit": float(said["limit"])}


@admin.register(Budget)
class BudgetAdmin(DocumentAdmin, ModelAdmin):
    """The list of budgets with what is used of each now, and the page of one."""

    form = BudgetForm
    list_display = ("name", "whom", "allowed", "used_now", "renews", "enabled")
    list_filter = ("enabled", "what", "period")
    search_fields = ("name", "description", "agent", "role", "user_id")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    readonly_fields = ("used_by", "history")
    fieldsets = (
        (None, {"fields": ("name", "description", "enabled")}),
        ("Whom it binds", {"fields": (("agent", "role"), ("user_id", "each_user"))}),
        ("How much", {"fields": (("what", "limit"), "period")}),
        ("What was used", {"fields": ("used_by", "history")}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Budget | None = None) -> Any:
        """Of a budget that is not there yet nothing was used."""
        found = super().get_fieldsets(request, obj)
        return found if obj else [part for part in found if part[0] != "What was used"]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With what is used of each now, read once for the whole list."""
        changelist = super().get_changelist_instance(request)
        figures = now_used(changelist.result_list)
        for budget in changelist.result_list:
            budget.figure = figures[budget.pk]
        return changelist

    @display(description="Whom")
    def whom(self, budget: Budget) -> str:
        parts = [f"agent {budget.agent}" if budget.agent else "", f"role {budget.role}" if budget.role else "",
                 f"user {budget.user_id}" if budget.user_id else ""]  # fmt: skip
        text = ", ".join(part for part in parts if part) or "everybody"
        return f"{text}, each user" if budget.each_user else text

    @display(description="Allowed")
    def allowed(self, budget: Budget) -> str:
        period = Period(budget.period) if budget.period else None
        return limit_in_words(What(budget.what), bound(budget), period)

    @display(description="Used now")
    def used_now(self, budget: Budget) -> SafeString:
        return _bar(budget.figure, "most by one user" if budget.each_user else "")  # type: ignore[attr-defined]

    @display(description="Renews (UTC)")
    def renews(self, budget: Budget) -> str:
        at = renewal(budget.period, timezone.now())
        return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else ""

    @display(description="Now")
    def used_by(self, budget: Budget) -> SafeString:
        context = {"budget": budget, "figures": top_users(budget), "most": TOP_USERS, "renews": self.renews(budget)}
        return SafeString(render_to_string("admin/tools/budgets/users.html", context))

    @display(description="Windows")
    def history(self, budget: Budget) -> SafeString:
        context = {"budget": budget, "figures": last_windows(budget), "most": LAST_WINDOWS}
        return SafeString(render_to_string("admin/tools/budgets/windows.html", context))


def _bar(figure: Any, remark: str = "") -> SafeString:
    return SafeString(render_to_string("admin/tools/budgets/bar.html", {"figure": figure, "remark": remark}))
