"""The forms of the tool pages: a tool with the definition of its next version, and the small dialogs."""

from __future__ import annotations

import json
from typing import Any

import orjson
from django import forms
from django.contrib.postgres.forms import SimpleArrayField
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from unfold.forms import BaseDialogForm
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from tools.admin.handler_help import HANDLER_TEMPLATES
from tools.calls import CacheScope, RateLimitScope, SideEffects
from tools.documents import Document
from tools.governance.approvals import Decider
from tools.models import HandlerType, Tool, ToolVersion
from tools.tool_changes import TOOL_KIND, check_change
from tools.versions import Definition

_HELP = {field.name: field.help_text for field in ToolVersion._meta.fields}
_DEFAULTS = Definition(
    title="",
    description="",
    input_schema={"type": "object", "properties": {}},
    handler=HANDLER_TEMPLATES[HandlerType.PYTHON_FUNCTION.value],
)
DEFINITION_FIELDS = tuple(Definition.__slots__)
ROLE_NAMES_LIST = "caller-roles"  # the datalist of described roles, in templates/admin/tools/tool/head.html


class IndentedJSONField(forms.JSONField):
    """JSON that people read and write: in an editor where scripts run, in a text field elsewhere."""

    def __init__(self, *, rows: int, **options: Any) -> None:
        attributes = {"rows": rows, "class": "console-json", "spellcheck": "false", "data-editor": "json"}
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs=attributes), **options)

    def prepare_value(self, value: Any) -> Any:
        """Indented, unless it is what somebody typed and must be shown as typed."""
        if value is None or isinstance(value, str):
            return value
        return json.dumps(value, indent=2, ensure_ascii=False)

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What was typed, as it was typed: a form that comes back need not understand it."""
        return InvalidJSONInput(data) if isinstance(data, str) else data

    def to_python(self, value: Any) -> Any:
        """The value; an error says where the text stops being JSON, or what of it cannot be kept."""
        try:
            found = super().to_python(value)
            orjson.dumps(found)
        except ValidationError as error:
            raise ValidationError([*error.messages, *_where_not_json(value)]) from error
        except RecursionError:
            raise ValidationError("It is nested too deeply.") from None
        except TypeError as error:  # lone surrogates, numbers of more than 64 bits, too many levels
            raise ValidationError(f"It cannot be kept: {error}.") from error
        if "\\u0000" in str(value):
            raise ValidationError("NUL characters cannot be kept.")
        return found


def _where_not_json(text: Any) -> list[str]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return [f"Line {error.lineno}, column {error.colno}: {error.msg}."]
    except TypeError:
        pass
    return []


class ToolForm(forms.ModelForm):
    """A tool and the definition of its next version; what is not changed makes no version."""

    tags = SimpleArrayField(
        forms.CharField(max_length=40),
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Separated by commas.",
    )
    title = forms.CharField(max_length=120, widget=UnfoldAdminTextInputWidget)
    description = forms.CharField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}), help_text=_HELP["description"])
    input_schema = IndentedJSONField(rows=14, help_text=_HELP["input_schema"])
    output_schema = IndentedJSONField(
        rows=14, required=False, help_text=f"{_HELP['output_schema']} Empty: not checked."
    )
    side_effects = forms.ChoiceField(
        choices=[(kind.value, kind.value) for kind in SideEffects],
        widget=UnfoldAdminSelectWidget,
        help_text=_HELP["side_effects"],
    )
    handler_type = forms.ChoiceField(choices=HandlerType.choices, widget=UnfoldAdminSelectWidget)
    handler = IndentedJSONField(rows=6, help_text=_HELP["handler"])
    required_credentials = SimpleArrayField(
        forms.CharField(max_length=128),
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Names of credentials in the vault or the environment, separated by commas. Their values go to the handler, "
        "never to the model.",
    )
    required_role = forms.CharField(
        required=False, max_length=64, widget=UnfoldAdminTextInputWidget, help_text=_HELP["required_role"]
    )
    timeout_seconds = forms.FloatField(widget=UnfoldAdminDecimalFieldWidget)
    output_limit_bytes = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, help_text=_HELP["output_limit_bytes"])
    max_retries = forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, help_text=_HELP["max_retries"])
    approval_required = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget, help_text=_HELP["approval_required"]
    )
    approval_by = forms.ChoiceField(
        choices=[(decider.value, decider.value) for decider in Decider],
        widget=UnfoldAdminSelectWidget,
        help_text=_HELP["approval_by"],
    )
    approver_role = forms.CharField(
        required=False, max_length=64, widget=UnfoldAdminTextInputWidget, help_text=_HELP["approver_role"]
    )
    approval_expires_seconds = forms.IntegerField(
        min_value=0, widget=UnfoldAdminIntegerFieldWidget, help_text=_HELP["approval_expires_seconds"]
    )
    cache_seconds = forms.IntegerField(
        min_value=0, widget=UnfoldAdminIntegerFieldWidget, help_text=_HELP["cache_seconds"]
    )
    cache_scope = forms.ChoiceField(
        choices=[(scope.value, scope.value) for scope in CacheScope],
        widget=UnfoldAdminSelectWidget,
        help_text=_HELP["cache_scope"],
    )
    rate_limit = forms.CharField(
        required=False, max_length=40, widget=UnfoldAdminTextInputWidget, help_text=_HELP["rate_limit"]
    )
    rate_limit_scope = forms.ChoiceField(
        choices=[(scope.value, scope.value) for scope in RateLimitScope],
        widget=UnfoldAdminSelectWidget,
        help_text=_HELP["rate_limit_scope"],
    )
    max_concurrent = forms.IntegerField(
        min_value=0, widget=UnfoldAdminIntegerFieldWidget, help_text=_HELP["max_concurrent"]
    )
    change_note = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        label="Why",
        help_text="Shown with the version, to whoever approves it, and in the audit trail.",
    )
    base_version = forms.IntegerField(widget=forms.HiddenInput, required=False)

    class Meta:
        model = Tool
        fields = ("name", "owner", "tags")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        served = self.instance.current_version
        self.initial.update((Definition.of(served) if served else _DEFAULTS).as_dict())
        self.initial["base_version"] = served.number if served else 0
        if "handler" in self.fields:  # not there for a reader
            attributes = {"data-templates": json.dumps(HANDLER_TEMPLATES), "data-templates-for": "id_handler_type"}
            self.fields["handler"].widget.attrs.update(attributes)
        for name in {"required_role", "approver_role"} & self.fields.keys():
            self.fields[name].widget.attrs["list"] = ROLE_NAMES_LIST

    def clean(self) -> dict[str, Any]:
        """Refuse what could not be called, and what would undo a version that this page did not show."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "input_schema" not in self.fields:  # a reader's page
            return cleaned
        served = self.instance.current_version
        if (cleaned.get("base_version") or 0) != (served.number if served else 0):
            raise ValidationError("Somebody has published another version meanwhile. Reload the page, then change it.")
        if not self.errors:
            self._check(self.document())
        return cleaned

    def document(self) -> Document:
        """What the form says. Whether the tool is on is not said here: it stays as it is."""
        said = {name: self.cleaned_data[name] for name in ("owner", "tags", *DEFINITION_FIELDS)}
        said["description"] = said["description"].replace("\r\n", "\n")  # browsers end lines with both
        name = self.cleaned_data.get("name", self.instance.name)
        return Document(TOOL_KIND, name, {**said, "enabled": self.instance.enabled})

    def _check(self, document: Document) -> None:
        """Each problem at its field."""
        try:
            check_change(document)
        except ValidationError as error:
            self.add_error(None, error)


class ReasonForm(BaseDialogForm):
    """A dialog that asks to confirm, and may be told why."""

    reason = forms.CharField(required=False, max_length=300, label="Why", widget=UnfoldAdminTextInputWidget)


class RollBackForm(BaseDialogForm):
    """Which version to go back to, and why."""

    number = forms.IntegerField(
        min_value=1,
        label="Version",
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="One of the numbers under Versions.",
    )
    note = forms.CharField(required=False, max_length=300, label="Why", widget=UnfoldAdminTextInputWidget)

    def clean_number(self) -> int:
        """The version must be there."""
        number: int = self.cleaned_data["number"]
        if not ToolVersion.objects.filter(tool_id=self.object_id, number=number).exists():
            raise ValidationError(f"There is no version {number}.")
        return number


class GoBackForm(forms.Form):
    """The same from the page that compares two versions: the version is the button's."""

    number = forms.IntegerField(min_value=1, widget=forms.HiddenInput)
    note = forms.CharField(required=False, max_length=300, label="Why", widget=UnfoldAdminTextInputWidget)
