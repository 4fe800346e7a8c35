"""Remote agents in the console: where they are, what their cards say, how they are, and the way to find more of them.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm

from a2a.admin.cards import CardPage
from a2a.admin.discovery import DiscoveryPage
from a2a.discovery import refresh
from a2a.models import RemoteAgent, RemoteAgentHealth
from a2a.remote_cards import skills_of
from audit.console_actor import request_actor
from tools.admin.documents import DocumentAdmin, DocumentForm, WhyForm, to_page
from tools.documents import Spec

KIND: Final = "RemoteAgent"
Signature = RemoteAgentHealth.Signature
State = RemoteAgent.State

_WRITTEN_HERE = (
    "title", "card_url", "key_set_url", "require_signature", "required_role", "credential", "credential_placement",
    "credential_header", "client_certificate", "client_key", "trusted_ca", "timeout_seconds", "side_effects", "owner",
)  # fmt: skip
_COLOURS = {
    State.UNKNOWN: "info", State.OFFERED: "info", State.ACCEPTED: "success", State.CHANGED: "warning", State.BLOCKED: "danger",
}  # fmt: skip
_SIGNATURE_COLOURS = {Signature.VALID: "success", Signature.UNSIGNED: "info", Signature.INVALID: "danger"}


class RemoteAgentForm(DocumentForm):
    """An agent. Whether it is on, and which card is accepted, is decided by actions, not here."""

    kind = KIND

    class Meta:
        model = RemoteAgent
        fields = ("name", *_WRITTEN_HERE)
        labels = {
            "card_url": "Address of its card",
            "key_set_url": "Address of the key set",
            "timeout_seconds": "Seconds for a task",
            "trusted_ca": "Trusted authorities",
        }

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        said = {field: self.cleaned_data[field] for field in _WRITTEN_HERE}
        return {**said, "enabled": self.instance.enabled, "accepted_digest": self.instance.accepted_digest}


@admin.register(RemoteAgent)
class RemoteAgentAdmin(DocumentAdmin, ModelAdmin):
    """The list of agents and the page of one."""

    form = RemoteAgentForm
    list_display = ("name", "title", "shown_state", "shown_card", "signature", "skills", "asked", "owner")
    list_filter = ("enabled", "state")
    search_fields = ("name", "title", "card_url", "owner")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    actions = None
    actions_list = ("find",)
    actions_detail = ("show_card", "read_again", "switch_on", "switch_off", "remove")
    readonly_fields = ("shown_state", "shown_card", "signature", "skills", "asked", "last_ok", "last_failure")
    fieldsets = (
        (None, {"fields": (("name", "shown_state"), "title", "card_url", ("required_role", "owner"))}),
        ("Tasks", {"fields": (("timeout_seconds", "side_effects"),)}),
        ("Signature of its card", {"fields": ("key_set_url", "require_signature")}),
        ("Credential", {"fields": ("credential", ("credential_placement", "credential_header"))}),
        ("TLS", {"fields": (("client_certificate", "client_key"), "trusted_ca")}),
        ("How it is", {"fields": (("shown_card", "signature", "skills"), ("asked", "last_ok", "last_failure"))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RemoteAgent]:
        """With how it is, read once for the whole list."""
        found: QuerySet[RemoteAgent] = super().get_queryset(request).select_related("health")
        return found

    def get_fieldsets(self, request: HttpRequest, obj: RemoteAgent | None = None) -> Any:
        """An agent that is not there yet is no way at all."""
        found = list(super().get_fieldsets(request, obj))
        if obj is not None:
            return found
        about = (None, {"fields": ("name", "title", "card_url", ("required_role", "owner"))})
        return [about, *(one for one in found[1:] if one[0] != "How it is")]

    def get_custom_urls(self) -> tuple[tuple[str, str, Any], ...]:
        return (
            ("<uuid:agent_id>/card/", "a2a_remoteagent_card", CardPage.as_view(model_admin=self)),
            ("discovery/", "a2a_remoteagent_discovery", DiscoveryPage.as_view(model_admin=self)),
        )

    # --- actions

    def has_show_card_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may see the agent may see its card."""
        return request.user.has_perm("a2a.view_remoteagent")

    def has_find_permission(self, request: HttpRequest) -> bool:
        """Who may register agents may look for some."""
        return request.user.has_perm("a2a.add_remoteagent")

    def has_read_again_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change agents."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is not None

    def has_switch_on_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change agents."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is False

    def has_switch_off_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may change agents."""
        return bool(self.has_change_permission(request)) and _is_on(object_id) is True

    @action(description="Find agents", permissions=["find"], url_path="find", icon="travel_explore")
    def find(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:a2a_remoteagent_discovery"))

    @action(description="Its card", permissions=["show_card"], url_path="show-card", icon="badge")
    def show_card(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(card_page(object_id))

    @action(
        description="Read its card now",
        permissions=["read_again"],
        url_path="read-again",
        icon="refresh",
        dialog={
            "title": "Read this agent's card?",
            "description": "Models go on being told what was accepted, whatever it says now.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Read",
        },
    )
    def read_again(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        found = refresh(get_object_or_404(RemoteAgent, pk=object_id), by=request_actor(request))
        is_well = not found.failure and found.state not in (State.CHANGED, State.BLOCKED)
        (messages.success if is_well else messages.error)(request, found.summary)
        return to_page(card_page(object_id))

    @action(
        description="Switch on",
        permissions=["switch_on"],
        url_path="switch-on",
        icon="toggle_on",
        variant=ActionVariant.SUCCESS,
        dialog={
            "title": "Switch this agent on?",
            "description": "Tasks can be handed to it once its card is accepted, and its card is read every 15 minutes.",
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
            "title": "Switch this agent off?",
            "description": "Nothing is handed to it within a second. Tasks that it is working on go on.",
            "form_class": WhyForm,
            "form_submit_text": "Switch off",
        },
    )
    def switch_off(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.switch_document(request, object_id, enabled=False, reason=form.cleaned_data["reason"])

    # --- showing

    @display(description="State")
    def shown_state(self, agent: RemoteAgent) -> SafeString:
        return _label(*_state(agent))

    @display(description="Card")
    def shown_card(self, agent: RemoteAgent) -> SafeString:
        label = _label(State(agent.state).label, _COLOURS[State(agent.state)])
        return format_html('<a href="{}">{}</a>', card_page(agent.pk), label)

    @display(description="Signature")
    def signature(self, agent: RemoteAgent) -> SafeString | str:
        shown = _health(agent)
        if shown is None or shown.discovered_at is None:
            return "-"
        found = Signature(shown.signature)
        return _label(found.label, _SIGNATURE_COLOURS.get(found, "warning"))

    @display(description="Skills")
    def skills(self, agent: RemoteAgent) -> str:
        shown = _health(agent)
        card = agent.accepted_card or (shown.card if shown else None) or {}
        names = [str(skill.get("name", "")) for skill in skills_of(card)]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "-"

    @display(description="Card read (UTC)")
    def asked(self, agent: RemoteAgent) -> str:
        shown = _health(agent)
        return f"{shown.discovered_at:%Y-%m-%d %H:%M}" if shown and shown.discovered_at else "never"

    @display(description="Answered last (UTC)")
    def last_ok(self, agent: RemoteAgent) -> str:
        shown = _health(agent)
        return f"{shown.last_ok_at:%Y-%m-%d %H:%M:%S}" if shown and shown.last_ok_at else "never"

    @display(description="Failed last (UTC)")
    def last_failure(self, agent: RemoteAgent) -> str:
        shown = _health(agent)
        if shown is None or shown.last_failure_at is None:
            return "never"
        return f"{shown.last_failure_at:%Y-%m-%d %H:%M:%S}: {shown.last_failure}"


def card_page(agent_id: object) -> str:
    """The address of the page with an agent's card."""
    return reverse("admin:a2a_remoteagent_card", args=[agent_id])


def _label(text: str, colour: str) -> SafeString:
    return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": colour}))


def _state(agent: RemoteAgent) -> tuple[str, str]:
    """In a word, and its colour."""
    shown = _health(agent)
    if not agent.enabled:
        return "off", "danger"
    if shown is not None and shown.failures_in_a_row:
        return f"unreachable ({shown.failures_in_a_row} in a row)", "danger"
    if agent.state in (State.BLOCKED, State.OFFERED, State.UNKNOWN):
        return "not asked", "warning"
    return "well", "success"


def _health(agent: RemoteAgent) -> RemoteAgentHealth | None:
    return getattr(agent, "health", None)


def _is_on(object_id: str) -> bool | None:
    """Whether the agent is on; nothing when there is none."""
    try:
        return RemoteAgent.objects.filter(pk=UUID(str(object_id))).values_list("enabled", flat=True).first()
    except (ValueError, ValidationError):
        return None
