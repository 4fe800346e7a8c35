"""Guardrail policies in the console: what they look for, where and what then happens, their versions, and trying them.

What is saved here goes through `tools.changes`, so it may have to wait for a second person. A policy that a setting makes is only read.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from tools.admin.documents import DocumentAdmin, DocumentForm, WhyForm
from tools.admin.guardrail_pages import PolicyVersionsPage, TryPoliciesPage
from tools.admin.tool_pages import badge
from tools.documents import Spec, kind_named
from tools.governance.guardrails.policy import PII_CLASSES, PolicyKind
from tools.governance.moderation import Mode, OnFailure
from tools.governance.policies import PolicyRule, rule_problems
from tools.models import GuardrailPolicy, GuardrailPolicyVersion
from tools.models.guardrails import POLICY_ACTIONS, POLICY_KINDS, POLICY_STAGES

KIND: Final = "Guardrail"
_ACTION_COLOURS = {"block": "danger", "redact": "warning", "warn": "info", "ask": "info"}
_CLASS_NAMES = {
    "email": "E-mail addresses",
    "phone": "Phone numbers",
    "card": "Card numbers",
    "iban": "IBANs",
    "api_key": "API keys",
    "private_key": "Private keys",
}
_HELP = {field.name: str(field.help_text) for field in GuardrailPolicyVersion._meta.fields}


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    def __init__(self, **options: Any) -> None:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": 8, "spellcheck": "false"})
        super().__init__(required=False, strip=False, widget=widget, **options)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        """Lines without the white space around them; empty ones are left out."""
        return [line.strip() for line in (super().clean(value) or "").splitlines() if line.strip()]


_OF_KIND: dict[str, tuple[str, ...]] = {
    PolicyKind.KEYWORDS.value: ("keywords", "match"),
    PolicyKind.PATTERNS.value: ("patterns", "whole_sentences"),
    PolicyKind.PII.value: ("classes",),
    PolicyKind.INJECTION.value: (),
    PolicyKind.LENGTH.value: ("max_characters",),
    PolicyKind.MODEL.value: (
        "url", "model", "credential", "categories", "threshold", "timeout_seconds", "on_failure", "mode",
    ),
}  # fmt: skip
"""The settings of each kind; the form has a field of the same name for each."""


class GuardrailForm(DocumentForm):
    """A policy. Whether it is on is switched by its actions, not here."""

    kind = KIND

    policy_kind = forms.ChoiceField(
        choices=POLICY_KINDS, label="Kind", widget=UnfoldAdminSelectWidget, help_text=_HELP["kind"]
    )
    stages = forms.MultipleChoiceField(
        choices=POLICY_STAGES, label="Where", widget=UnfoldAdminCheckboxSelectMultipleWidget, help_text=_HELP["stages"]
    )
    action = forms.ChoiceField(choices=POLICY_ACTIONS, widget=UnfoldAdminSelectWidget, help_text=_HELP["action"])
    message = forms.CharField(
        required=False, max_length=500, widget=UnfoldAdminTextInputWidget, help_text=_HELP["message"]
    )
    keywords = LinesField(
        help_text="One a line. Capitals, accents, full-width letters and invisible characters make no difference."
    )
    match = forms.ChoiceField(
        required=False,
        choices=[("word", "As whole words"), ("anywhere", "Anywhere, within words too")],
        widget=UnfoldAdminSelectWidget,
    )
    patterns = LinesField(help_text="Regular expressions (RE2), one a line.")
    whole_sentences = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Answers are held back sentence by sentence, so that patterns may be longer than 64 characters.",
    )
    classes = forms.MultipleChoiceField(
        required=False,
        choices=[(name, _CLASS_NAMES.get(name, name)) for name in PII_CLASSES],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    max_characters = forms.IntegerField(required=False, min_value=1, widget=UnfoldAdminIntegerFieldWidget)
    url = forms.CharField(
        required=False,
        max_length=500,
        label="Address",
        widget=UnfoldAdminTextInputWidget,
        help_text="Base address of an OpenAI-compatible API, such as https://api.openai.com/v1.",
    )
    model = forms.CharField(required=False, max_length=120, widget=UnfoldAdminTextInputWidget)
    credential = forms.CharField(
        required=False,
        max_length=128,
        widget=UnfoldAdminTextInputWidget,
        help_text="Name of the credential that is sent with each request, stored or in the environment. Empty: none.",
    )
    categories = LinesField(help_text="Categories that count, one a line. Empty: all of them.")
    threshold = forms.FloatField(
        required=False,
        widget=UnfoldAdminDecimalFieldWidget,
        help_text="From which score on a category counts. Empty: as the endpoint says.",
    )
    timeout_seconds = forms.FloatField(required=False, widget=UnfoldAdminDecimalFieldWidget)
    on_failure = forms.ChoiceField(
        required=False,
        choices=[(OnFailure.BLOCK.value, "Block"), (OnFailure.ALLOW.value, "Let pass")],
        label="When it does not answer",
        widget=UnfoldAdminSelectWidget,
    )
    mode = forms.ChoiceField(
        required=False,
        choices=[(Mode.FINAL.value, "Until it is complete"), (Mode.SENTENCES.value, "To each sentence's end")],
        label="An answer is held back",
        widget=UnfoldAdminSelectWidget,
    )

    class Meta:
        model = GuardrailPolicy
        fields = ("name", "everywhere", "description")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        version = self.instance.current_version
        if version is None:
            self.initial.setdefault("timeout_seconds", 5)
            return
        rule = PolicyRule.of(version)
        said = {"policy_kind": rule.kind, "stages": rule.stages, "action": rule.action, "message": rule.message}
        self.initial.update({**rule.settings, **said})

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        said = self.cleaned_data
        return {
            "enabled": self.instance._state.adding or self.instance.enabled,
            "everywhere": said["everywhere"],
            "description": said["description"],
            "kind": said["policy_kind"],
            "stages": said["stages"],
            "action": said["action"],
            "settings": self._settings(),
            "message": said["message"],
        }

    def clean(self) -> dict[str, Any]:
        """What the engine says of the settings first, each at its field; then as every document."""
        self._check_settings()
        return super().clean()

    def _check_settings(self) -> None:
        if self.errors:
            return
        for name, texts in rule_problems(PolicyRule.in_spec(kind_named(KIND).complete(self.spec()))).items():
            self.add_error(name if name in self.fields else None, texts)

    def _settings(self) -> dict[str, Any]:
        """Those of the kind that was chosen; what is empty is left out, so that the kind's own default counts."""
        found = {name: self.cleaned_data[name] for name in _OF_KIND[self.cleaned_data["policy_kind"]]}
        return {name: value for name, value in found.items() if value not in (None, "", False) and value != []}


@admin.register(GuardrailPolicy)
class GuardrailPolicyAdmin(DocumentAdmin, ModelAdmin):
    """The list of policies and the page of one."""

    form = GuardrailForm
    list_display = ("name", "shown_kind", "where", "shown_action", "whom", "state", "description")
    list_filter = ("enabled", "everywhere", "current_version__kind", "current_version__action")
    list_select_related = ("current_version",)
    search_fields = ("name", "description")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    actions = None
    actions_list = ("try_all",)
    actions_detail = ("try_it", "versions", "switch_on", "switch_off")
    readonly_fields = ("state", "shown_version")
    conditional_fields: ClassVar[dict[str, str]] = {
        field: f"policy_kind == '{kind}'" for kind, fields in _OF_KIND.items() for field in fields
    }
    fieldsets = (
        (None, {"fields": (("name", "state"), "description", "everywhere")}),
        (
            "What it looks for",
            {"fields": ("policy_kind", *(field for fields in _OF_KIND.values() for field in fields))},
        ),
        ("Where, and what then happens", {"fields": ("stages", "action", "message", "shown_version")}),
    )  # fmt: skip

    def get_custom_urls(self) -> tuple[tuple[str, str, Any], ...]:
        return (
            ("<uuid:object_id>/versions/", "tools_guardrailpolicy_versions", PolicyVersionsPage.as_view(model_admin=self)),
        )  # fmt: skip

    def get_urls(self) -> list[Any]:
        """The page that belongs to no one policy comes first."""
        view = self.admin_site.admin_view(TryPoliciesPage.as_view(model_admin=self))
        return [path("try/", view, name="tools_guardrailpolicy_try"), *super().get_urls()]

    def get_fieldsets(self, request: HttpRequest, obj: GuardrailPolicy | None = None) -> Any:
        """A new policy has no state; what is only read is shown as what it says."""
        found = list(super().get_fieldsets(request, obj))
        if obj is None:
            about = (None, {"fields": ("name", "description", "everywhere")})
            rule = ("Where, and what then happens", {"fields": ("stages", "action", "message")})
            return [about, found[1], rule, *found[3:]]
        if not self.has_change_permission(request, obj):
            return [(None, {"fields": (("name", "state"), "description", "everywhere", "shown_rule", "shown_version")})]
        return found

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """As in `get_fieldsets`."""
        return (*super().get_readonly_fields(request, obj), "shown_rule")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """What a setting makes is changed there."""
        return bool(super().has_change_permission(request, obj)) and not (obj is not None and obj.setting)

    # --- actions

    def has_try_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may see policies may try them: nothing is kept."""
        return request.user.has_perm("tools.view_guardrailpolicy")

    def has_switch_on_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change policies."""
        return _may_switch(self, request, object_id, enabled=False)

    def has_switch_off_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change policies."""
        return _may_switch(self, request, object_id, enabled=True)

    @action(description="Try a text", permissions=["try"], url_path="try-all", icon="science")
    def try_all(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:tools_guardrailpolicy_try"))

    @action(description="Try it", permissions=["try"], url_path="try-it", icon="science")
    def try_it(self, request: HttpRequest, object_id: str) -> HttpResponse:
        name = get_object_or_404(GuardrailPolicy, pk=object_id).name
        return HttpResponseRedirect(f"{reverse('admin:tools_guardrailpolicy_try')}?policy={name}")

    @action(description="Versions", permissions=["try"], url_path="show-versions", icon="history")
    def versions(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:tools_guardrailpolicy_versions", args=[object_id]))

    @action(
        description="Switch on",
        permissions=["switch_on"],
        url_path="switch-on",
        icon="toggle_on",
        dialog={
            "title": "Switch this policy on?",
            "description": "Within a second everything that it applies to is held against it.",
            "form_class": WhyForm,
            "form_submit_text": "Switch on",
        },
    )
    def switch_on(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.switch_document(request, object_id, enabled=True, reason=form.cleaned_data["reason"])

    @action(
        description="Switch off",
        permissions=["switch_off"],
        url_path="switch-off",
        icon="toggle_off",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Switch this policy off?",
            "description": "Within a second nothing is held against it any more. It and its versions stay.",
            "form_class": WhyForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.switch_document(request, object_id, enabled=False, reason=form.cleaned_data["reason"])

    # --- showing

    @display(description="Kind", ordering="current_version__kind")
    def shown_kind(self, policy: GuardrailPolicy) -> str:
        return policy.current_version.get_kind_display() if policy.current_version else "-"

    @display(description="Where")
    def where(self, policy: GuardrailPolicy) -> str:
        stages = policy.current_version.stages if policy.current_version else []
        return (
            "everywhere"
            if len(stages) == len(POLICY_STAGES)
            else ", ".join(stage.replace("_", " ") for stage in stages)
        )

    @display(description="Action", ordering="current_version__action")
    def shown_action(self, policy: GuardrailPolicy) -> SafeString | str:
        version = policy.current_version
        return badge(version.action, _ACTION_COLOURS.get(version.action, "default")) if version else "-"

    @display(description="For", ordering="everywhere")
    def whom(self, policy: GuardrailPolicy) -> str:
        return "everybody" if policy.everywhere else "agents that name it"

    @display(description="State", ordering="enabled")
    def state(self, policy: GuardrailPolicy) -> SafeString:
        label = badge("on", "success") if policy.enabled else badge("off", "danger")
        return format_html("{} set by {}", label, policy.setting) if policy.setting else label

    @display(description="What it says")
    def shown_rule(self, policy: GuardrailPolicy) -> SafeString | str:
        version = policy.current_version
        if version is None:
            return "-"
        said = {"kind": version.get_kind_display(), "where": self.where(policy), "action": version.get_action_display()}
        shown = {**said, **version.settings, **({"message": version.message} if version.message else {})}
        rows = (
            (name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in shown.items()
        )
        return format_html_join("", "<p>{}: {}</p>", rows)

    @display(description="Version")
    def shown_version(self, policy: GuardrailPolicy) -> SafeString | str:
        version = policy.current_version
        if version is None:
            return "-"
        address = reverse("admin:tools_guardrailpolicy_versions", args=[policy.pk])
        made = f"{version.number}, {version.created_at:%Y-%m-%d %H:%M:%S} UTC"
        return format_html('<a class="console-link" href="{}">{}</a>', address, made)


def _may_switch(page: GuardrailPolicyAdmin, request: HttpRequest, object_id: str, *, enabled: bool) -> bool:
    """Whether this person may change the policy, and it is what is to be changed."""
    if not page.has_change_permission(request):
        return False
    return GuardrailPolicy.objects.filter(
        pk=object_id, enabled=enabled, setting="", current_version__isnull=False
    ).exists()
