"""Trying a tool in the console: a form made from its input schema, one real call through the door, and what came of it.

It needs the permission to change tools, and no further one: who may say what a call does, and with which credentials, gains
nothing by making one. Others do not test: a call has effects outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson
from django import forms
from django.http import HttpRequest, HttpResponse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldBooleanWidget

from agentbackend.foundation.identifiers import uuid7
from audit.console_actor import request_actor, request_id
from tools.admin.argument_fields import example_of, fields_of, value_of
from tools.admin.forms import IndentedJSONField
from tools.admin.tool_pages import CHANGE, VIEW, ToolPage, audit_link, badge, milliseconds
from tools.calls import SideEffects, ToolOutcome, ToolResult
from tools.governance.roles import ADMIN, USER
from tools.models import CallerRole, ToolVersion
from tools.trial_calls import TrialError, try_tool

AS_JSON = "json"
MOST_ROLES = 200
MOST_SHOWN = 200_000
_PREFIX = "argument-"

_COLOURS = {
    ToolOutcome.OK: "success",
    ToolOutcome.DENIED: "warning",
    ToolOutcome.RATE_LIMITED: "warning",
    ToolOutcome.NEEDS_APPROVAL: "info",
}


class TrialForm(forms.Form):
    """As whom, and with which arguments. `as_json`: the arguments are written as one JSON object."""

    def __init__(self, version: ToolVersion, *, as_json: bool, data: Any = None) -> None:
        super().__init__(data)
        schema = version.input_schema
        self._of_arguments = None if as_json else fields_of(schema)
        self.is_json = self._of_arguments is None
        self.is_flat = self._of_arguments is not None or fields_of(schema) is not None
        if self._of_arguments is None:
            self.fields["arguments"] = IndentedJSONField(rows=12, label="Arguments", initial=example_of(schema))
        else:
            self.fields.update({f"{_PREFIX}{name}": field for name, field in self._of_arguments.items()})
        self.fields["role"] = _role_field()
        if version.side_effects == SideEffects.UNSAFE:
            self.fields["understood"] = forms.BooleanField(
                label="Make this call, whatever it does",
                widget=UnfoldBooleanWidget,
                help_text="Its side effects are unsafe: what it does may not be undone.",
            )

    def arguments(self) -> str:
        """The arguments as JSON text, for the door to judge."""
        if self._of_arguments is None:
            return json.dumps(self.cleaned_data["arguments"])
        said = {
            name: value_of(field, self.cleaned_data[f"{_PREFIX}{name}"]) for name, field in self._of_arguments.items()
        }
        return json.dumps({name: value for name, value in said.items() if value is not ...})


def _role_field() -> forms.ChoiceField:
    described = CallerRole.objects.order_by("name").values_list("name", flat=True)[:MOST_ROLES]
    roles = list(dict.fromkeys([USER, *described, ADMIN]))
    return forms.ChoiceField(
        choices=[(role, role) for role in roles],
        initial=USER,
        label="As a caller of the role",
        widget=UnfoldAdminSelectWidget,
        help_text="The audit trail names you, with this role.",
    )


@dataclass(frozen=True, slots=True)
class Shown:
    """What came of a test, for the page."""

    badge: str
    explanation: str
    text: str
    version: int
    duration: str
    remarks: list[str]


class TrialPage(ToolPage):
    """The form by GET, the call by POST."""

    name = "test"
    title = "Test"
    template_name = "admin/tools/tool/test.html"
    permission_required = (VIEW, CHANGE)

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        version = self.tool.current_version
        form = options.pop("form", None)
        if form is None and version is not None:
            form = TrialForm(version, as_json=self._as_json)
        schema = json.dumps(version.input_schema, indent=2, ensure_ascii=False) if version else ""
        return {**super().get_context_data(**options), "form": form, "as_json": self._as_json, "schema": schema}

    def post(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        """Make the call, and show what came of it beside the form."""
        version = self.tool.current_version
        if version is None:
            return self.get(request, *arguments, **options)
        form = TrialForm(version, as_json=self._as_json, data=request.POST)
        if not form.is_valid():
            return self.render_to_response(self.get_context_data(form=form))
        return self.render_to_response(self.get_context_data(form=form, **self._called(request, form)))

    def _called(self, request: HttpRequest, form: TrialForm) -> dict[str, Any]:
        identifier = request_id(request) or str(uuid7())
        try:
            result = try_tool(
                self.tool.name,
                form.arguments(),
                by=request_actor(request),
                role=form.cleaned_data["role"],
                request_id=identifier,
            )
        except TrialError as error:
            return {"problem": str(error)}
        trail = audit_link(f"request:{identifier}", "What the audit trail has of this call")
        return {"result": shown(result), "trail": trail}

    @property
    def _as_json(self) -> bool:
        return self.request.GET.get("as") == AS_JSON


def shown(result: ToolResult) -> Shown:
    """A result for the page: JSON indented, bounded, with what is special about it."""
    return Shown(
        badge=badge(result.outcome.value.replace("_", " "), _COLOURS.get(result.outcome, "danger")),
        explanation=result.error,
        text=_text(result) if result.ok else "",
        version=result.version,
        duration=milliseconds(result.duration_ms),
        remarks=_remarks(result),
    )


def _text(result: ToolResult) -> str:
    structured = result.value is not None and not isinstance(result.value, str)
    text = orjson.dumps(result.value, option=orjson.OPT_INDENT_2).decode() if structured else result.content
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}\n… {len(text) - MOST_SHOWN:,} more characters"


def _remarks(result: ToolResult) -> list[str]:
    found = []
    if result.cached:
        found.append("A kept result: the tool itself was not called.")
    if result.truncated:
        found.append("Cut at the output limit.")
    if result.retryable:
        found.append("The same call may succeed later." if not result.ok else "")
    if result.retry_after_seconds:
        found.append(f"Not before {result.retry_after_seconds:g} seconds.")
    return [remark for remark in found if remark]
