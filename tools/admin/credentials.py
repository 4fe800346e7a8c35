"""Credentials in the console: set, replace, remove; which of those that tools require are there. Values are never shown.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminPasswordWidget

from tools.admin.documents import DocumentAdmin, DocumentForm, WhyForm
from tools.admin.people import usernames
from tools.admin.tool_pages import badge
from tools.credentials import CredentialSource
from tools.documents import Spec, kind_named
from tools.models import StoredCredential
from tools.stored_credentials import (
    KIND,
    CredentialState,
    credential_states,
    proposals_under_former_keys,
    seal_value,
)
from tools.vault import active_kid

_LABELS = {
    CredentialSource.VAULT: ("stored", "success"),
    CredentialSource.ENVIRONMENT: ("from the environment", "info"),
    CredentialSource.NOWHERE: ("missing", "danger"),
}
_NOT_FOR_PASSWORD_MANAGERS = {
    "autocomplete": "new-password",  # "off" is ignored in fields of this type
    "data-1p-ignore": "true",
    "data-lpignore": "true",
    "spellcheck": "false",
}


class CredentialForm(DocumentForm):
    """A credential; its value can be written and never be read."""

    kind = KIND

    secret = forms.CharField(
        required=False,
        strip=False,
        label="Value",
        widget=UnfoldAdminPasswordWidget(attrs=_NOT_FOR_PASSWORD_MANAGERS),
        help_text="Sealed at once and never shown again. One line; white space around it is taken off.",
    )

    class Meta:
        model = StoredCredential
        fields = ("name", "description")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if "secret" not in self.fields:  # a reader's page
            return
        if self.instance._state.adding:
            self.fields["secret"].required = True
        else:
            self.fields["secret"].help_text += " Empty: the stored value stays."

    def clean(self) -> dict[str, Any]:
        """A value that was pasted into the wrong field, too, would be kept as it is and shown again."""
        value = (self.cleaned_data.get("secret") or "").strip()
        fields = [name for name in ("description", "change_reason") if value and value in self.data.get(name, "")]
        if fields:
            typed: Any = self.data
            typed = typed.copy()
            for name in fields:
                typed[name] = ""
                self.add_error(name, "The value itself stood here, so this is emptied.")
            self.data = typed
        return super().clean()

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        return {"description": self.cleaned_data["description"], "secret": self._sealed}

    @cached_property
    def _sealed(self) -> str:
        """What was typed, sealed once; or what is stored, when nothing was."""
        name, typed = self.document_name(), self.cleaned_data["secret"]
        if typed or self.instance._state.adding:
            return seal_value(name, typed)
        stored = kind_named(KIND).read(name)
        if stored is None:
            raise ValidationError("Somebody has removed it meanwhile.")
        secret: str = stored["secret"]
        return secret


@admin.register(StoredCredential)
class StoredCredentialAdmin(DocumentAdmin, ModelAdmin):
    """The list of stored credentials, with what is required and not stored, and the page of one."""

    form = CredentialForm
    list_display = ("name", "state", "set", "key", "used_by", "description")
    search_fields = ("name", "description")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    list_before_template = "admin/tools/credentials/required.html"
    warn_unsaved_form = True
    readonly_fields = ("state", "set", "key", "used_by")

    def get_fields(self, request: HttpRequest, obj: StoredCredential | None = None) -> Any:
        """What is known of it comes with the first value; a value is asked of those who may write it."""
        may_write = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        known = (("name", "state"), ("set", "key"), "used_by") if obj else ("name",)
        return (*known, *(("secret",) if may_write else ()), "description")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """No conditions in the address: one on the sealed value would tell of it."""
        return False

    @method_decorator(sensitive_post_parameters("secret"))
    def changeform_view(self, request: HttpRequest, *arguments: Any, **options: Any) -> Any:
        """A report of an error here leaves the value out."""
        return super().changeform_view(request, *arguments, **options)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, and before it what somebody should do: set what is missing, rotate what lies under an old key."""
        states = _states_for(request).values()
        elsewhere = [state for state in states if state.stored is None]
        former = [state.name for state in states if state.awaits_rotation]
        context = {
            "missing": [state for state in elsewhere if state.source is CredentialSource.NOWHERE],
            "in_environment": [state for state in elsewhere if state.source is CredentialSource.ENVIRONMENT],
            "unreadable": [state for state in states if state.problem],
            "under_former_keys": [*former, *proposals_under_former_keys()],
            "active_kid": active_kid(),
            "may_add": self.has_add_permission(request),
        }
        page: HttpResponse = super().changelist_view(request, {**context, **(extra_context or {})})
        return page

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With the state of each, found once for the whole page."""
        page = super().get_changelist_instance(request)
        states, names = _states_for(request), usernames(credential.set_by for credential in page.result_list)
        for credential in page.result_list:
            credential.names = names
            credential.found_state = states.get(credential.name) or credential_states([credential.name])[0]
        return page

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        credential: Any = super().get_object(request, object_id, from_field)
        if credential is not None:
            credential.names = usernames([credential.set_by])
            [credential.found_state] = credential_states([credential.name])
        return credential

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Only the name may come with the address."""
        return {"name": request.GET["name"]} if "name" in request.GET else {}

    @action(
        description="Remove",
        permissions=["remove"],
        url_path="remove",
        icon="delete",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Remove this credential?",
            "description": "Its value is then gone for good, where a second person is needed with the approval. Calls that require it "
            "fail, unless the environment has it.",
            "form_class": WhyForm,
            "form_submit_text": "Remove",
        },
    )
    def remove(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.remove_document(request, object_id, form.cleaned_data["reason"])

    # --- showing

    @display(description="State")
    def state(self, credential: StoredCredential) -> SafeString:
        state = _state_of(credential)
        text, kind = ("cannot be opened", "danger") if state.problem else _LABELS[state.source]
        return badge(text, kind)

    @display(description="Set (UTC)")
    def set(self, credential: StoredCredential) -> str:
        names: dict[str, str] = credential.names  # type: ignore[attr-defined]
        return f"{credential.set_at:%Y-%m-%d %H:%M} by {names.get(credential.set_by, credential.set_by)}"

    @display(description="Key")
    def key(self, credential: StoredCredential) -> str:
        state = _state_of(credential)
        if state.problem:
            return f"{credential.kid}: {state.problem}"
        return f"{credential.kid}, no longer the first: rotate" if state.awaits_rotation else credential.kid

    @display(description="Required by")
    def used_by(self, credential: StoredCredential) -> str:
        return ", ".join(_state_of(credential).used_by) or "nothing"


def _states_for(request: Any) -> dict[str, CredentialState]:
    """All states, found once for a request."""
    if not hasattr(request, "credential_states"):
        request.credential_states = {state.name: state for state in credential_states()}
    found: dict[str, CredentialState] = request.credential_states
    return found


def _state_of(credential: Any) -> CredentialState:
    """What was found of it for this page."""
    state: CredentialState = credential.found_state
    return state
