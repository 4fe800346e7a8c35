"""What the pages of governed things share: a form is a document, and saving it goes through `tools.changes`.

So it is checked as everywhere else, each problem at its field, recorded by the kind itself, and, where FOUR_EYES says so, proposed
instead of written. A form carries what the thing said when its page was opened: a change that was made meanwhile is not undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.contrib import admin
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from audit.console_actor import request_actor
from tools.admin.tool_pages import tell_change, tell_problem
from tools.changes import check_submission, submit
from tools.documents import Document, Spec, fingerprint, kind_named

WHY_HELP: Final = "Shown to whoever approves it, and in the audit trail."
_CHANGED_MEANWHILE = "Somebody has changed this meanwhile. Reload the page, then change it."

if TYPE_CHECKING:
    _Base = admin.ModelAdmin[Any]
else:
    _Base = object


class WhyForm(BaseDialogForm):
    """A dialog that asks to confirm, and may be told why."""

    reason = forms.CharField(
        required=False, max_length=500, label="Why", widget=UnfoldAdminTextInputWidget, help_text=WHY_HELP
    )


class DocumentForm(forms.ModelForm):
    """A form whose content is a document of `kind`. Subclasses say under which name, and what it says."""

    kind: ClassVar[str]

    change_reason = forms.CharField(
        required=False, max_length=500, label="Why", widget=UnfoldAdminTextInputWidget, help_text=WHY_HELP
    )
    seen = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self.is_bound and not self.instance._state.adding:
            self.initial["seen"] = fingerprint(kind_named(self.kind).read(self.document_name()))

    def document_name(self) -> str:
        """Of the thing, as documents name it."""
        raise NotImplementedError

    def spec(self) -> Spec:
        """What the form says."""
        raise NotImplementedError

    def document(self) -> Document:
        """The same as a document."""
        return Document(self.kind, self.document_name(), self.spec())

    def clean(self) -> dict[str, Any]:
        """Check it as a document. From here on nobody else changes the registry, so saving it finds the same."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        try:
            document = self.document()
            check_submission(document)
            self._check_seen(document)
        except ValidationError as error:
            for field, texts in messages_by_field(error):
                self.add_error(field if field in self.fields else None, texts)
        return cleaned

    def _check_seen(self, document: Document) -> None:
        """Of a new thing the model says itself when there is one of the name."""
        adding = self.instance._state.adding
        if not adding and self.cleaned_data.get("seen") != fingerprint(kind_named(self.kind).read(document.name)):
            raise ValidationError(_CHANGED_MEANWHILE)


class DocumentAdmin(_Base):
    """A mixin for the admin of a model whose rows are documents; stands before the admin class.

    `identity` are the fields that a document's name is made of: fixed once the thing is there. Its form is a DocumentForm.
    """

    identity: ClassVar[tuple[str, ...]] = ("name",)
    actions = None
    actions_detail: Sequence[str] = ("remove",)

    def document_name(self, obj: Any) -> str:
        """What documents call this row."""
        return str(obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """What it is cannot be changed, only what it says."""
        found = super().get_readonly_fields(request, obj)
        return (*found, *self.identity) if obj else tuple(found)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Who may write is asked why."""
        found = list(super().get_fieldsets(request, obj))
        may_write = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        return [*found, ("This change", {"fields": ("change_reason", "seen")})] if may_write else found

    # --- saving

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write it, or propose it; `obj.proposal` tells which."""
        reason = form.cleaned_data.get("change_reason", "")
        obj.proposal = submit(form.document(), by=request_actor(request), reason=reason)
        if obj.proposal is None and not change:
            written = type(obj)._default_manager.filter(**{name: getattr(obj, name) for name in self.identity})
            obj.pk = written.values_list("pk", flat=True).get()

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """All of it is in the document."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A proposal is no addition yet."""
        return None if obj.proposal else super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A proposal is no change yet."""
        return None if obj.proposal else super().log_change(request, obj, message)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return self._proposed(request, obj) or super().response_add(request, obj, post_url_continue)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return self._proposed(request, obj) or super().response_change(request, obj)

    def _proposed(self, request: HttpRequest, obj: Any) -> HttpResponse | None:
        if obj.proposal is None:
            return None
        tell_change(request, obj.proposal, "")
        return HttpResponseRedirect(self._list_address())

    # --- removing

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Removed by the action, which may have to wait for a second person."""
        return False

    def has_remove_permission(self, request: HttpRequest, object_id: str = "") -> bool:
        """Who may delete rows of this kind."""
        return request.user.has_perm(f"{self.opts.app_label}.delete_{self.opts.model_name}")

    @action(
        description="Remove",
        permissions=["remove"],
        url_path="remove",
        icon="delete",
        variant=ActionVariant.DANGER,
        dialog={
            "title": "Remove this?",
            "description": "It stops counting within a second; where a second person must approve that, only then.",
            "form_class": WhyForm,
            "form_submit_text": "Remove",
        },
    )
    def remove(self, request: HttpRequest, form: WhyForm, object_id: str) -> HttpResponse:
        return self.remove_document(request, object_id, form.cleaned_data["reason"])

    def remove_document(self, request: HttpRequest, object_id: str, reason: str) -> HttpResponse:
        """Remove the row or propose that; to the list, or back to its page when it has to stay."""
        obj: models.Model = get_object_or_404(self.model, pk=object_id)
        name = self.document_name(obj)
        document = Document(self.form.kind, name, None)  # type: ignore[attr-defined]
        if self.submit_document(request, document, f"{name} is removed.", reason):
            return to_page(self._list_address())
        return to_page(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id]))

    def switch_document(self, request: HttpRequest, object_id: str, *, enabled: bool, reason: str) -> HttpResponse:
        """Switch the row on or off, or propose that; nothing else of it changes. To its page."""
        kind, name = self.form.kind, self.document_name(get_object_or_404(self.model, pk=object_id))  # type: ignore[attr-defined]
        spec: Spec = {**(kind_named(kind).read(name) or {}), "enabled": enabled}
        done = f"{name} is {'on' if enabled else 'off'}."
        self.submit_document(request, Document(kind, name, spec), done, reason)
        return to_page(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id]))

    def submit_document(self, request: HttpRequest, document: Document, done: str, reason: str = "") -> bool:
        """Write or propose it and say so; False when it cannot be."""
        try:
            proposal = submit(document, by=request_actor(request), reason=reason)
        except ValidationError as error:
            tell_problem(request, error)
            return False
        tell_change(request, proposal, done)
        return True

    def _list_address(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")


def messages_by_field(error: ValidationError) -> Iterable[tuple[str, list[str]]]:
    """The error's texts by the field that they are about; empty for those about the whole."""
    if not hasattr(error, "error_dict"):
        return [("", error.messages)]
    return [("" if field == NON_FIELD_ERRORS else field, texts) for field, texts in error.message_dict.items()]


def to_page(address: str) -> HttpResponse:
    """A dialog posts from a script, which follows this header."""
    return HttpResponse(headers={"HX-Redirect": address})
