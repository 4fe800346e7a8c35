"""Credentials in the console: set, replace, remove; which of those that tools require are there. Values are never shown.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from audit.console_actor import request_actor
from tools.changes import checked, submit
from tools.credentials import CredentialSource
from tools.documents import Document, kind_named
from tools.models import ChangeRequest, StoredCredential
from tools.stored_credentials import KIND, CredentialState, credential_states, seal_value
from tools.vault import active_kid

PROPOSED = "Proposed: a second person must approve it before it counts."
_LABELS = {
    CredentialSource.VAULT: ("stored", "success"),
    CredentialSource.ENVIRONMENT: ("from the environment", "info"),
    CredentialSource.NOWHERE: ("missing", "danger"),
}


class CredentialForm(forms.ModelForm):
    """A credential; its value can be written and never be read."""

    value = forms.CharField(
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password", "spellcheck": "false"}),
        help_text="It is encrypted at once and never shown again. Empty: the stored value stays.",
    )
    reason = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why: shown to whoever approves it, and in the audit trail.",
    )

    class Meta:
        model = StoredCredential
        fields = ("name", "description")

    def clean(self) -> dict[str, Any]:
        """Seal the value and check the whole as a document, each problem at its field."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "value" not in self.fields or self.errors:  # a reader's page, or not usable anyway
            return cleaned
        name = cleaned.get("name", self.instance.name)
        try:
            cleaned["document"] = self._document(name, cleaned)
            checked(kind_named(KIND), cleaned["document"])
        except ValidationError as error:
            self._add(error)
        if ChangeRequest.objects.filter(kind=KIND, name=name, status=ChangeRequest.Status.PENDING).exists():
            self.add_error(None, "Another change of this credential waits for a second person.")
        return cleaned

    def _document(self, name: str, cleaned: dict[str, Any]) -> Document:
        stored = None if self.instance._state.adding else kind_named(KIND).read(self.instance.name)
        secret = stored["secret"] if stored and not cleaned["value"] else seal_value(name, cleaned["value"])
        return Document(KIND, name, {"description": cleaned["description"], "secret": secret})

    def _add(self, error: ValidationError) -> None:
        for field, texts in error.message_dict.items():
            shown = "value" if field == "secret" else field
            self.add_error(shown if shown in self.fields else None, texts)


@admin.register(StoredCredential)
class StoredCredentialAdmin(ModelAdmin):
    """The list of stored credentials, with what is required and not stored, and the page of one."""

    form = CredentialForm
    list_display = ("name", "state", "set", "key", "used_by", "description")
    search_fields = ("name", "description")
    ordering = ("name",)
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    list_before_template = "admin/tools/credentials/required.html"
    warn_unsaved_form = True
    actions = None
    actions_detail = ("remove",)
    readonly_fields = ("state", "set", "key", "used_by")

    def get_readonly_fields(self, request: HttpRequest, obj: StoredCredential | None = None) -> tuple[str, ...]:
        return ("name", *self.readonly_fields) if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: StoredCredential | None = None) -> Any:
        """What is known of it comes with the first value."""
        written = ("value", "description", "reason") if self._may_write(request, obj) else ("description",)
        if obj is None:
            return ((None, {"fields": ("name", *written)}),)
        return (
            (None, {"fields": (("name", "state"), ("set", "key"), "used_by")}),
            ("This change", {"fields": written}),
        )

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With the state of each, found once for the whole page."""
        page = super().get_changelist_instance(request)
        states = {state.name: state for state in credential_states()}
        for credential in page.result_list:
            credential.found_state = states[credential.name]
        return page

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        credential: Any = super().get_object(request, object_id, from_field)
        if credential is not None:
            [credential.found_state] = credential_states([credential.name])
        return credential

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, and before it what tools require that is not stored."""
        elsewhere = [state for state in credential_states() if state.stored is None]
        context = {
            "missing": [state for state in elsewhere if state.source is CredentialSource.NOWHERE],
            "in_environment": [state for state in elsewhere if state.source is CredentialSource.ENVIRONMENT],
            "without_keys": not active_kid(),
            "may_add": self.has_add_permission(request),
        }
        page: HttpResponse = super().changelist_view(request, {**context, **(extra_context or {})})
        return page

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Only the name may come with the address."""
        return {"name": request.GET["name"]} if "name" in request.GET else {}

    def _may_write(self, request: HttpRequest, obj: StoredCredential | None) -> bool:
        return bool(self.has_change_permission(request, obj) if obj else self.has_add_permission(request))

    # --- saving

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Removed by the action, which may have to ask a second person."""
        return False

    def save_model(self, request: HttpRequest, obj: StoredCredential, form: CredentialForm, change: bool) -> None:
        """Write it, or propose it."""
        document, reason = form.cleaned_data["document"], form.cleaned_data.get("reason", "")
        request.proposal = submit(document, by=request_actor(request), reason=reason)  # type: ignore[attr-defined]
        if request.proposal is None:  # type: ignore[attr-defined]
            obj.pk = StoredCredential.objects.values_list("pk", flat=True).get(name=document.name)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The audit trail has it, or it is only proposed."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The audit trail has it, or it is only proposed."""

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return self._proposed(request) or super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return self._proposed(request) or super().response_change(request, obj)

    def _proposed(self, request: HttpRequest) -> HttpResponse | None:
        if getattr(request, "proposal", None) is None:
            return None
        messages.info(request, PROPOSED)
        return HttpResponseRedirect(reverse("admin:tools_storedcredential_changelist"))

    # --- removing

    def has_remove_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may delete credentials."""
        return request.user.has_perm("tools.delete_storedcredential")

    @action(
        description="Remove",
        permissions=["remove"],
        url_path="remove",
        icon="delete",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Remove this credential?",
            "description": "Its value is gone for good. Calls of tools that require it fail, unless the environment has it.",
            "form_class": BaseDialogForm,
            "form_submit_text": "Remove",
        },
    )
    def remove(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        name = get_object_or_404(StoredCredential, pk=object_id).name
        try:
            proposal = submit(Document(KIND, name, None), by=request_actor(request))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
        else:
            messages.success(request, PROPOSED if proposal else f"{name} is removed.")
        return HttpResponse(headers={"HX-Redirect": reverse("admin:tools_storedcredential_changelist")})

    # --- showing

    @display(description="State")
    def state(self, credential: StoredCredential) -> SafeString:
        state = _state_of(credential)
        text, kind = ("cannot be opened", "danger") if state.problem else _LABELS[state.source]
        return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": kind}))

    @display(description="Set (UTC)")
    def set(self, credential: StoredCredential) -> str:
        return f"{credential.set_at:%Y-%m-%d %H:%M}, by {credential.set_by}"

    @display(description="Key")
    def key(self, credential: StoredCredential) -> str:
        state = _state_of(credential)
        if state.problem:
            return f"{credential.kid}: {state.problem}"
        return credential.kid if credential.kid == active_kid() else f"{credential.kid}, no longer the first: rotate"

    @display(description="Required by")
    def used_by(self, credential: StoredCredential) -> str:
        return ", ".join(_state_of(credential).used_by) or "nothing"


def _state_of(credential: Any) -> CredentialState:
    """What was found of it for this page."""
    state: CredentialState = credential.found_state
    return state
