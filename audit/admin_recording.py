"""Console changes in the audit trail: who added, changed or deleted what, with values before and after.

`AuditedModelAdmin` stands before the admin class of whatever is edited in the console:
`class ToolAdmin(AuditedModelAdmin, ModelAdmin)`. It records in the transaction of the change, through the
hooks that Django's admin calls for its own history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib import admin
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse

from audit import actions
from audit.console_actor import request_actor, request_id
from audit.entry import Outcome, Target
from audit.recording import record
from audit.redaction import REDACTED, is_secret_name

Changes: TypeAlias = dict[str, dict[str, Any]]

if TYPE_CHECKING:
    _Base = admin.ModelAdmin[Any]
else:
    _Base = object


def record_console(
    request: HttpRequest,
    action: str,
    obj: models.Model | None = None,
    *,
    target: Target | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Record what a console user does; must stand inside `atomic`. `obj` or `target` says to what."""
    record(
        action,
        actor=request_actor(request),
        outcome=outcome,
        target=target or (target_of(obj) if obj is not None else None),
        reason=reason,
        request_id=request_id(request),
        details=details,
    )


def target_of(obj: models.Model) -> Target:
    """A row as the target of an event: `tools.tool` and its primary key."""
    return Target(obj._meta.label_lower, str(obj.pk))


class AuditedModelAdmin(_Base):
    """A mixin that records additions, changes and deletions made with this admin class.

    `audit_masked_fields` names fields whose values are not shown in the record, beside those whose names say
    that they hold secrets; that they changed is recorded all the same.
    """

    audit_masked_fields: tuple[str, ...] = ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Keep what the row held before, then save."""
        before = self._stored_values(obj) if change else {}
        super().save_model(request, obj, form, change)
        _remember(request, obj, self._differences(before, self._stored_values(obj)))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save inlines and many-to-many fields, and keep what changed in them."""
        related_before = self._related_values(form)
        super().save_related(request, form, formsets, change)
        changes = self._differences(related_before, self._related_values(form))
        for formset in formsets:
            changes.update(self._inline_changes(formset))
        _remember(request, form.instance, changes)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Called by the admin after an addition, in its transaction."""
        self._record(request, actions.CONSOLE_ADDED, obj)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Called by the admin after a change, in its transaction."""
        self._record(request, actions.CONSOLE_CHANGED, obj, message)
        return super().log_change(request, obj, message)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete one object, with a record of what it held."""
        with transaction.atomic():
            self._record_deletion(request, obj)
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        """Delete the chosen objects, with a record of each."""
        with transaction.atomic():
            for obj in queryset:
                self._record_deletion(request, obj)
            super().delete_queryset(request, queryset)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list; changes made in it (`list_editable`, actions) and their records share a transaction."""
        if request.method != "POST":
            return super().changelist_view(request, extra_context)
        with transaction.atomic():
            return super().changelist_view(request, extra_context)

    # --- what is recorded

    def _record(self, request: HttpRequest, action: str, obj: models.Model, message: Any = None) -> None:
        details: dict[str, Any] = {"name": str(obj), "changes": _recall(request, obj)}
        if message and not details["changes"]:
            details["message"] = message
        record_console(request, action, obj, details=details)

    def _record_deletion(self, request: HttpRequest, obj: models.Model) -> None:
        changes = self._differences(self._stored_values(obj), {})
        record_console(request, actions.CONSOLE_DELETED, obj, details={"name": str(obj), "changes": changes})

    def _differences(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
        changes: Changes = {}
        for name in {**before, **after}:
            old, new = before.get(name), after.get(name)
            if old == new:
                continue
            hidden = name in self.audit_masked_fields or is_secret_name(name)
            changes[name] = {"before": _shown(old, hidden), "after": _shown(new, hidden)}
        return changes

    def _stored_values(self, obj: models.Model) -> dict[str, Any]:
        """The row as the database holds it, by field name; empty when it is not there."""
        names = [field.attname for field in obj._meta.concrete_fields]
        return type(obj)._base_manager.filter(pk=obj.pk).values(*names).first() or {}

    def _related_values(self, form: Any) -> dict[str, Any]:
        """The many-to-many fields of the form, each as the sorted texts of what they hold."""
        obj = form.instance
        names = [field.name for field in obj._meta.many_to_many if field.name in form.fields]
        return {name: sorted(str(item) for item in getattr(obj, name).all()) for name in names}

    def _inline_changes(self, formset: Any) -> Changes:
        """What changed in an inline's rows: which rows, and the names of their changed fields."""
        rows: dict[str, list[Any]] = {
            "added": [str(obj) for obj in getattr(formset, "new_objects", ())],
            "changed": [
                {"row": str(obj), "fields": list(fields)} for obj, fields in getattr(formset, "changed_objects", ())
            ],
            "deleted": [str(obj) for obj in getattr(formset, "deleted_objects", ())],
        }
        happened = {what: which for what, which in rows.items() if which}
        return {formset.model._meta.model_name: happened} if happened else {}


class AuditedUserAdmin(AuditedModelAdmin):
    """The same for Django's user admin, whose page for a new password opens no transaction of its own."""

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Set a password; that it was set is recorded with it."""
        with transaction.atomic():
            response: HttpResponse = super().user_change_password(request, id, form_url)  # type: ignore[misc]
            return response


def _shown(value: Any, hidden: bool) -> Any:
    return REDACTED if hidden and value not in (None, "") else value


def _remember(request: Any, obj: models.Model, changes: Changes) -> None:
    """Keep changes with the request until the admin says that the object was added or changed."""
    if not hasattr(request, "audited_changes"):
        request.audited_changes = {}
    request.audited_changes.setdefault(target_of(obj), {}).update(changes)


def _recall(request: Any, obj: models.Model) -> Changes:
    kept: dict[Target, Changes] = getattr(request, "audited_changes", {})
    return kept.pop(target_of(obj), {})


__all__ = ["AuditedModelAdmin", "AuditedUserAdmin", "record_console", "target_of"]
