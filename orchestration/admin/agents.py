"""Agents in the console: what they are told, which model and tools they use, which of them answers by default.

What the form says is checked and written as a document (`orchestration.documents`, `tools.changes`): where agents need a second
person, it becomes a proposal, and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.postgres.forms import SimpleArrayField
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from a2a.delegation import TOOL_PREFIX
from a2a.models import RemoteAgent
from audit.console_actor import request_actor
from orchestration.documents import AgentKind
from orchestration.models import Agent
from tools.admin.forms import IndentedJSONField
from tools.changes import checked, submit
from tools.documents import Document, kind_named
from tools.models import GuardrailPolicy, Tool

MOST_TOOLS = 500
_FORM_NAMES = {"name": "slug", "title": "name"}  # where the document calls a field otherwise


class AgentForm(forms.ModelForm):
    """An agent, with its tools chosen from the registry."""

    tools = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What it may offer to callers whose role allows it. None chosen: every tool.",
    )
    fallback_models = SimpleArrayField(
        forms.CharField(max_length=200),
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Separated by commas, tried in this order when the first one fails before it has said anything.",
    )
    guardrails = forms.MultipleChoiceField(
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="Policies that hold for it, beside those that hold everywhere.",
    )
    output_schema = IndentedJSONField(
        rows=8, required=False, help_text="JSON Schema of its answers. Empty: it answers in prose."
    )
    skills = IndentedJSONField(
        rows=8,
        required=False,
        help_text='What its card says that it can do: {"id": {"name": "...", "description": "..."}}.',
    )
    change_note = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why: shown in the audit trail, and to whoever must approve the change.",
    )

    class Meta:
        model = Agent
        fields = (
            "name", "slug", "description", "enabled", "is_default", "instructions", "prompting", "planning", "output_schema",
            "model", "fallback_models", "temperature", "max_output_tokens", "history_token_budget", "summarise_history",
            "max_iterations", "event_retention_days", "guardrails", "tools", "exposed_over_a2a", "skills",
        )  # fmt: skip

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.document: Document | None = None
        if "description" in self.fields:
            self.fields["description"].widget.attrs["rows"] = 3
        if "tools" in self.fields:  # not there for a reader
            self.fields["tools"].choices = _tool_choices(self.instance.tools)  # type: ignore[attr-defined]
            self.fields["guardrails"].choices = _policy_choices(self.instance.guardrails)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Check what the form says as a document, each problem at its field."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors and "tools" in self.fields:
            kind = kind_named(AgentKind.name)
            spec = {field: cleaned[_FORM_NAMES.get(field, field)] for field in AgentKind.fields}
            spec["skills"] = cleaned["skills"] = spec["skills"] or {}
            self.document = Document(kind.name, self.instance.slug or cleaned["slug"], spec)
            try:
                checked(kind, self.document)
            except ValidationError as error:
                for name, message in _messages(error):
                    self.add_error(_form_name(self, name), message)
        if "is_default" in cleaned:
            cleaned["is_default"] = bool(self.initial.get("is_default"))  # set with the document: there can be only one
        return cleaned


def _form_name(form: AgentForm, name: str) -> str | None:
    """Where the form shows what is said of a document's field."""
    own = _FORM_NAMES.get(name, name)
    return own if own in form.fields else None


def _messages(error: ValidationError) -> Iterator[tuple[str, str]]:
    for name, texts in error.message_dict.items() if hasattr(error, "error_dict") else [("", error.messages)]:
        yield from ((name, text) for text in texts)


def _tool_choices(chosen: list[str]) -> list[tuple[str, str]]:
    """The registry's tools, and what is chosen but no longer there: removing that is up to a person."""
    known = list(Tool.objects.values_list("name", "enabled")[:MOST_TOOLS])
    agents = RemoteAgent.objects.values_list("name", "enabled")[:MOST_TOOLS]
    known += [(TOOL_PREFIX + name, enabled) for name, enabled in agents]
    names = {name for name, _ in known}
    missing = [(name, f"{name} (not in the registry)") for name in chosen if name not in names]
    return [(name, name if enabled else f"{name} (switched off)") for name, enabled in known] + missing


def _policy_choices(chosen: list[str]) -> list[tuple[str, str]]:
    """Policies that an agent can name; those that hold everywhere need not be named, but may be, for when they no longer do."""
    known = {policy.name: policy for policy in GuardrailPolicy.objects.filter(setting="")[:MOST_TOOLS]}
    choices = [
        (
            name,
            f"{name}{' (switched off)' if not policy.enabled else ' (holds everywhere)' if policy.everywhere else ''}",
        )
        for name, policy in known.items()
    ]
    return choices + [(name, f"{name} (not among the policies)") for name in chosen if name not in known]


@admin.register(Agent)
class AgentAdmin(ModelAdmin):
    """The list of agents and the page of one."""

    form = AgentForm
    list_display = ("name", "slug", "shown_model", "tool_names", "is_default", "enabled")
    list_filter = ("enabled",)
    search_fields = ("name", "slug")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    actions = None
    prepopulated_fields = {"slug": ("name",)}
    fieldsets = (
        (None, {"fields": (("name", "slug"), "description", ("enabled", "is_default"))}),
        ("Behaviour", {"fields": ("instructions", ("prompting", "planning"), "output_schema")}),
        (
            "Model",
            {"fields": (("model", "temperature"), "fallback_models", ("max_output_tokens", "max_iterations"))},
        ),
        ("History", {"fields": (("history_token_budget", "event_retention_days"), "summarise_history")}),
        ("Guardrails", {"fields": ("guardrails",)}),
        ("Tools", {"fields": ("tools",)}),
        ("A2A", {"fields": ("exposed_over_a2a", "skills")}),
    )  # fmt: skip

    def get_prepopulated_fields(self, request: HttpRequest, obj: Agent | None = None) -> dict[str, Any]:
        """The slug is suggested for a new agent and fixed afterwards: addresses contain it."""
        return {} if obj else dict(self.prepopulated_fields)

    def get_readonly_fields(self, request: HttpRequest, obj: Agent | None = None) -> tuple[str, ...]:
        return ("slug",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Agent | None = None) -> bool:
        """The default agent stays; an agent with threads is switched off instead (the database refuses)."""
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and not (obj is not None and obj.is_default)

    def get_fieldsets(self, request: HttpRequest, obj: Agent | None = None) -> Any:
        """Who only reads is not asked why."""
        shown = super().get_fieldsets(request, obj)
        may_write = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        return (*shown, ("This change", {"fields": ("change_note",)})) if may_write else shown

    # --- saving: written or proposed, and recorded, by the document's kind

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Submit what the form says; the row is then what the document made of it."""
        if self._submit(request, form.document, form.cleaned_data["change_note"]):
            stored = Agent.objects.get(slug=form.document.name)
            obj.pk, obj._state.adding = stored.pk, False
            obj.refresh_from_db()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Submit that the agent shall go."""
        if self._submit(request, Document(AgentKind.name, obj.slug, None), ""):
            super().log_deletions(request, [obj])

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Django's own history tells of what was done, not of what is only proposed."""
        return super().log_addition(request, obj, message) if _is_done(request) else None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """As `log_addition`."""
        return super().log_change(request, obj, message) if _is_done(request) else None

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """The admin calls this before it deletes: `delete_model` does it instead, after it has."""
        return None

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        done = _is_done(request)
        return super().response_add(request, obj, post_url_continue) if done else self._back_to_list()

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return super().response_change(request, obj) if _is_done(request) else self._back_to_list()

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: int) -> HttpResponse:
        done = _is_done(request)
        return super().response_delete(request, obj_display, obj_id) if done else self._back_to_list()

    def _submit(self, request: Any, document: Document, reason: str) -> bool:
        """Whether the change is live; if not, the person is told what has become of it."""
        try:
            proposal = submit(document, by=request_actor(request), reason=reason)
        except ValidationError as error:  # another proposal waits, or somebody was faster than this form's check
            messages.error(request, f"Nothing was saved: {' '.join(error.messages)}")
            request.is_done = False
            return False
        if proposal is not None:
            messages.warning(request, f"The change of {document.name} is proposed: a second person must approve it.")
        request.is_done = proposal is None
        return proposal is None

    def _back_to_list(self) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:orchestration_agent_changelist"))

    @display(description="Model")
    def shown_model(self, agent: Agent) -> str:
        return agent.model or "the service's"

    @display(description="Tools")
    def tool_names(self, agent: Agent) -> str:
        return ", ".join(agent.tools) or "all"


def _is_done(request: HttpRequest) -> bool:
    return bool(getattr(request, "is_done", True))
