"""Who may call a tool, and why: the decision for every described role, and for any role and arguments that somebody asks about."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from django import forms
from django.db.models import Q
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from audit.admin import linked
from tools.admin.forms import IndentedJSONField
from tools.admin.tool_pages import ToolPage, badge, missing_credentials
from tools.governance.explanations import AccessRules, rules_of
from tools.governance.roles import ADMIN, USER
from tools.models import ArgumentRule, CallerRole, DenyRule
from tools.models.names import role_name

MOST_ROLES = 200


class QuestionForm(forms.Form):
    """Asks about one role, perhaps with arguments."""

    role = forms.CharField(
        required=False, max_length=64, validators=[role_name], label="Role", widget=UnfoldAdminTextInputWidget,
        help_text="Any role, also one that nobody has described. Empty: all described roles.",
    )  # fmt: skip
    arguments = IndentedJSONField(
        rows=4, required=False, label="Arguments", help_text="A JSON object. Empty: whatever the arguments are."
    )

    def clean_arguments(self) -> dict[str, Any] | None:
        """Arguments are an object."""
        found = self.cleaned_data["arguments"]
        if found is not None and not isinstance(found, dict):
            raise forms.ValidationError("Arguments must be a JSON object.")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """May a caller of this role call the tool, and why?"""

    role: str
    link: str
    badge: SafeString
    explanation: str
    reason: str
    conditions: str


class AccessPage(ToolPage):
    """The decisions as the door makes them, with the rules that they come from."""

    name = "access"
    title = "Who may call it"
    template_name = "admin/tools/tool/access.html"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        form = QuestionForm(self.request.GET) if self.request.GET else QuestionForm()
        asked = form.cleaned_data if form.is_bound and form.is_valid() else {}
        described = dict(CallerRole.objects.order_by("name").values_list("name", "pk")[:MOST_ROLES])
        roles = [asked["role"]] if asked.get("role") else list(dict.fromkeys([USER, ADMIN, *described]))
        rules = replace(rules_of(self.tool), enabled=True)  # whether it is on is said once, above the table
        version = self.tool.current_version
        return {
            **super().get_context_data(**options),
            "form": form,
            "asked_arguments": asked.get("arguments"),
            "answers": [answer(rules, role, described.get(role), asked.get("arguments")) for role in roles],
            "denies": [
                (linked("tools.denyrule", str(rule.pk), str(rule)), rule.reason)
                for rule in DenyRule.objects.select_related("tool").filter(Q(tool=self.tool) | Q(tool=None))
            ],
            "argument_rules": [
                (
                    linked("tools.argumentrule", str(rule.pk), rule.role or "everybody"),
                    rule.reason,
                    json.dumps(rule.schema, indent=2),
                )
                for rule in ArgumentRule.objects.filter(tool=self.tool)
            ],
            "missing": missing_credentials(version.required_credentials if version else []),
        }


def answer(rules: AccessRules, role: str, role_id: Any, arguments: dict[str, Any] | None) -> Answer:
    """The answer for one role; `role_id` is that of its description, if there is one."""
    decision = rules.decide(role, arguments)
    binding = rules.binding(role) if decision.allowed else []
    return Answer(
        role=role,
        link=linked("tools.callerrole", str(role_id), role) if role_id else role,
        badge=badge("yes", "success") if decision.allowed else badge("no", "danger"),
        explanation=decision.explanation,
        reason=decision.reason_code,
        conditions=" ".join(f"{condition.reason}." if condition.reason else "A rule." for condition in binding),
    )
