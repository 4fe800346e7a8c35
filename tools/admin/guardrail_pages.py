"""Pages beside those of one guardrail policy: trying a text, and a policy's versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.safestring import SafeString
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from tools.admin.tool_pages import audit_link, badge, who
from tools.governance.guardrails.policy import Checked, Finding, Stage
from tools.governance.policies import PolicyRule
from tools.governance.screens import RegisteredPolicy, Screen, registered_policy
from tools.line_differences import field_differences
from tools.models import GuardrailPolicy, GuardrailPolicyVersion
from tools.models.guardrails import POLICY_STAGES

VIEW = "tools.view_guardrailpolicy"
MOST_TRIED = 20_000
VERSIONS_A_PAGE = 25
_COLOURS = {"block": "danger", "redact": "warning", "warn": "info", "ask": "info"}


class TryForm(forms.Form):
    """A text, and which policies look at it."""

    policy = forms.ChoiceField(required=False, label="Policies", widget=UnfoldAdminSelectWidget)
    text = forms.CharField(
        max_length=MOST_TRIED,
        strip=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 8}),
        help_text="Nothing of it is stored or sent anywhere, so moderation models are not asked.",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        names = GuardrailPolicy.objects.filter(current_version__isnull=False).values_list("name", "enabled")
        choices = [(name, name if enabled else f"{name} (off)") for name, enabled in names]
        self.fields["policy"].choices = [("", "All that are on"), *choices]  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Tried:
    """What would become of the text at one place."""

    stage: str
    verdict: SafeString
    text: str
    findings: list[tuple[str, SafeString, str, str]]


class TryPoliciesPage(UnfoldModelAdminViewMixin, TemplateView):
    """Paste a text and see what would be found where, masked. By POST, so that the text stands in no address and no log."""

    title = "Try a text"
    permission_required = VIEW
    template_name = "admin/tools/guardrails/try.html"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        form = options.pop("form", None) or TryForm(initial={"policy": self.request.GET.get("policy", "")})
        return {"tried": [], **super().get_context_data(**options), "form": form}

    def post(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        """Check the text, here and now."""
        form = TryForm(request.POST)
        tried = tried_at_all_stages(form.cleaned_data["text"], form.cleaned_data["policy"]) if form.is_valid() else []
        return self.render_to_response(self.get_context_data(form=form, tried=tried))


def tried_at_all_stages(text: str, name: str) -> list[Tried]:
    """What the fast checks of one policy, or of all that are on, would do with the text at each place."""
    screen = Screen.compiled(_policies(name), {})
    labels = dict(POLICY_STAGES)
    return [_tried(labels[stage.value], screen.check_now(stage, text)) for stage in Stage if screen.concerns(stage)]


def _policies(name: str) -> list[RegisteredPolicy]:
    found = GuardrailPolicy.objects.select_related("current_version").filter(current_version__isnull=False)
    chosen = found.filter(name=name) if name else found.filter(enabled=True)
    return [_registered(policy.name, policy.everywhere, policy.current_version) for policy in chosen]


def _registered(name: str, everywhere: bool, version: GuardrailPolicyVersion | None) -> RegisteredPolicy:
    assert version is not None
    rule = PolicyRule.of(version)
    return registered_policy(
        name,
        everywhere,
        version.number,
        version.digest,
        rule.kind,
        rule.stages,
        rule.action,
        rule.settings,
        rule.message,
    )


def _tried(stage: str, checked: Checked) -> Tried:
    if checked.blocked is not None:
        verdict, text = badge("blocked", "danger"), ""
    elif checked.asks is not None:
        verdict, text = badge("a person is asked", "info"), checked.text
    elif checked.findings:
        verdict, text = badge("passes, with findings", "warning"), checked.text
    else:
        verdict, text = badge("passes", "success"), ""
    return Tried(stage, verdict, text, [_row(finding) for finding in checked.findings])


def _row(finding: Finding) -> tuple[str, SafeString, str, str]:
    action = finding.policy.action.value
    named = f"{finding.policy.name}, version {finding.policy.version}"
    return named, badge(action, _COLOURS.get(action, "default")), finding.category, finding.excerpt


class PolicyVersionsPage(UnfoldModelAdminViewMixin, TemplateView):
    """All versions of a policy, newest first, each with what it changed."""

    title = "Versions"
    permission_required = VIEW
    template_name = "admin/tools/guardrails/versions.html"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        policy = get_object_or_404(GuardrailPolicy, pk=self.kwargs["object_id"])
        added = {name: value for name, value in options.items() if name not in self.kwargs}
        versions = GuardrailPolicyVersion.objects.filter(policy=policy).order_by("-number")
        page = Paginator(versions, VERSIONS_A_PAGE).get_page(self.request.GET.get("p"))
        older = {version.number: version for version in versions.filter(number__in=[v.number - 1 for v in page])}
        rows = [
            {
                "version": version,
                "who": who(version.created_by),
                "changes": _changes(older.get(version.number - 1), version),
                "served": version.pk == policy.current_version_id,
            }
            for version in page
        ]
        trail = audit_link(f"target:tools.guardrailpolicy/{policy.pk}", "Everything recorded about it")
        return {**super().get_context_data(**added), "policy": policy, "page": page, "rows": rows, "trail": trail}


def _changes(older: GuardrailPolicyVersion | None, version: GuardrailPolicyVersion) -> Any:
    before = PolicyRule.of(older).as_dict() if older is not None else {}
    return field_differences(before, PolicyRule.of(version).as_dict())
