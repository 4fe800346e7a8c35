"""Importing tools from an OpenAPI document: give it, choose its operations, look at what they would become, import them.

The document travels in the pages' forms (`tools.openapi.held`); what is done is done by `tools.openapi.importing`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from asgiref.sync import async_to_sync
from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from audit.console_actor import request_actor
from tools.admin.tool_pages import badge, proposal_link
from tools.changes import needs_second_person
from tools.credentials import name_problem
from tools.documents import kind_named
from tools.models import ChangeRequest, Tool
from tools.openapi.fetching import fetch_document
from tools.openapi.held import HeldDocument, hold, release
from tools.openapi.importing import Imported, Result, import_operations, taken_names
from tools.openapi.operations import Api, Choices, Operation, read_api
from tools.openapi.reading import MAX_BYTES, DocumentError
from tools.openapi.references import References
from tools.openapi.security import Scheme, schemes_of

MOST_AT_ONCE: Final = 100

_TEMPLATES = "admin/tools/openapi"
_COLOURS = {Result.CREATED: "success", Result.PROPOSED: "warning", Result.FAILED: "danger"}


class SourceForm(forms.Form):
    """A file, or an address."""

    file = forms.FileField(
        required=False,
        widget=UnfoldAdminFileFieldWidget,
        help_text=f"OpenAPI 3.x as JSON or YAML, {MAX_BYTES // (1024 * 1024)} MiB at most, complete in itself.",
    )
    url = forms.CharField(
        required=False,
        max_length=2000,
        label="Address",
        widget=UnfoldAdminTextInputWidget(
            attrs={"placeholder": "https://api.example.com/openapi.json", "spellcheck": "false"}
        ),
        help_text="Instead of a file: the service gets it. Private addresses are refused unless OUTBOUND_ALLOWED_HOSTS names them.",
    )

    def clean(self) -> dict[str, Any]:
        """One of the two, and no more bytes than are read."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        if bool(cleaned.get("file")) == bool(cleaned.get("url")):
            raise ValidationError("Give either a file or an address.")
        if cleaned.get("file") and cleaned["file"].size > MAX_BYTES:
            self.add_error("file", f"The document has more than {MAX_BYTES // (1024 * 1024)} MiB.")
        return cleaned

    def held(self) -> HeldDocument:
        """The document; raises DocumentError."""
        uploaded = self.cleaned_data["file"]
        if uploaded:
            return HeldDocument.of(uploaded.read(), name=uploaded.name)
        fetched = async_to_sync(fetch_document)(self.cleaned_data["url"].strip())
        return HeldDocument.of(fetched.data, name="", url=fetched.url)


class OptionsForm(forms.Form):
    """What is said beside the document: names, where the service is, and which credential stands for which scheme."""

    name_prefix = forms.RegexField(
        r"^[A-Za-z0-9_-]{0,24}$",
        required=False,
        label="Prefix of names",
        widget=UnfoldAdminTextInputWidget,
        error_messages={"invalid": "Up to 24 letters, digits, underscores and hyphens."},
        help_text="Put before the name of each tool, for example “shop_”.",
    )
    base_url = forms.CharField(
        required=False,
        max_length=500,
        label="Base address",
        widget=UnfoldAdminTextInputWidget,
        help_text="Where the service is, when it is not where the document says.",
    )
    with_output_schemas = forms.BooleanField(
        required=False,
        initial=True,
        label="Check results",
        widget=UnfoldBooleanSwitchWidget,
        help_text="Results that do not fit the document's schemas are withheld. Switch it off for services that do not keep to them.",
    )

    def __init__(self, schemes: tuple[Scheme, ...], data: Any = None) -> None:
        super().__init__(data)
        self._schemes = {f"credential-{number}": scheme for number, scheme in enumerate(schemes) if not scheme.problem}
        for name, scheme in self._schemes.items():
            note = f", {scheme.note}" if scheme.note else ""
            self.fields[name] = forms.CharField(
                initial=scheme.suggested,
                max_length=128,
                label=f"Credential for {scheme.name[:60]}",
                widget=UnfoldAdminTextInputWidget,
                help_text=f"{_placed(scheme)}{note}. Its value is set under Credentials, or in the environment.",
            )

    def clean(self) -> dict[str, Any]:
        """Credentials must have names that tools may require."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for name in self._schemes:
            problem = name_problem(cleaned[name]) if name in cleaned else ""
            if problem:
                self.add_error(name, problem)
        return cleaned

    def choices(self, document_url: str) -> Choices:
        """As the import takes them."""
        said = self.cleaned_data
        return Choices(
            document_url=document_url,
            base_url=said["base_url"].strip(),
            prefix=said["name_prefix"],
            credentials={scheme.name: said[name] for name, scheme in self._schemes.items()},
            with_output_schemas=said["with_output_schemas"],
        )


@dataclass(frozen=True, slots=True)
class Row:
    """An operation on a page. `number` is its place in the document, by which a form names it."""

    number: int
    operation: Operation
    problem: str
    chosen: bool

    @property
    def definition(self) -> str:
        """What it would become."""
        return json.dumps(self.operation.spec, indent=2, ensure_ascii=False)


class ImportPage(UnfoldModelAdminViewMixin, TemplateView):
    """All steps of an import; each form says which step it asks for."""

    template_name = f"{_TEMPLATES}/source.html"
    permission_required = "tools.add_tool"
    title = "Import tools from OpenAPI"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**{"form": SourceForm(), **options})
        return {**context, "needs_second_person": needs_second_person(kind_named("Tool"))}

    def post(self, request: HttpRequest, **options: Any) -> HttpResponse:
        """Go on with an import, or say on its first page why that cannot be."""
        form = SourceForm(request.POST, request.FILES) if request.POST.get("step") == "read" else SourceForm()
        try:
            if request.POST.get("step") == "read":
                return self._read(form)
            return self._go_on(release(request.POST.get("document", ""), str(request.user.pk)))
        except DocumentError as error:
            return self._page("source", {"form": form, "problem": str(error)})

    def _read(self, form: SourceForm) -> HttpResponse:
        if not form.is_valid():
            return self._page("source", {"form": form})
        held = form.held()
        api = read_api(held.document, Choices(document_url=held.url))
        return self._choose(held, api, OptionsForm(api.schemes), frozenset())

    def _go_on(self, held: HeldDocument) -> HttpResponse:
        step, chosen = self.request.POST.get("step"), _numbers(self.request.POST.getlist("chosen"))
        schemes = schemes_of(held.document, References(held.document))
        form = OptionsForm(tuple(schemes.values()), self.request.POST)
        if not form.is_valid():
            return self._choose(held, read_api(held.document, Choices(document_url=held.url)), form, chosen)
        api = read_api(held.document, form.choices(held.url))
        rows = [row for row in _rows(api, chosen) if row.chosen]
        if step == "import" and rows and len(rows) <= MOST_AT_ONCE:
            return self._import(held, rows)
        if step != "preview":
            return self._choose(held, api, form, chosen)
        if not rows:
            return self._choose(held, api, form, chosen, "Tick the operations that shall become tools.")
        if len(rows) > MOST_AT_ONCE:
            return self._choose(held, api, form, chosen, f"Tick at most {MOST_AT_ONCE} at once.")
        importable = sum(not row.problem for row in rows)
        return self._page(
            "preview", {**self._about(held, api), "rows": rows, "options": _options(form), "importable": importable}
        )

    def _choose(
        self, held: HeldDocument, api: Api, form: OptionsForm, chosen: frozenset[int], problem: str = ""
    ) -> HttpResponse:
        rows = _rows(api, chosen)
        context = {
            "form": form,
            "usable": [row for row in rows if not row.problem],
            "unusable": [row for row in rows if row.problem],
            "problem": problem,
        }
        return self._page("choose", {**self._about(held, api), **context})

    def _import(self, held: HeldDocument, rows: list[Row]) -> HttpResponse:
        reason = self.request.POST.get("reason", "").strip()[:500]
        operations = [row.operation for row in rows]
        done = import_operations(operations, held.source, by=request_actor(self.request), reason=reason)
        return self._page("result", {"results": _shown(done), "source": held.source})

    def _about(self, held: HeldDocument, api: Api) -> dict[str, Any]:
        return {"source": held.source, "api": api, "document": hold(held, str(self.request.user.pk))}

    def _page(self, name: str, context: Mapping[str, Any]) -> HttpResponse:
        return render(self.request, f"{_TEMPLATES}/{name}.html", self.get_context_data(**context))


def openapi_urls(admin_site: AdminSite) -> list[URLPattern]:
    """The addresses of the import, for the page of all tools."""
    page = ImportPage.as_view(model_admin=admin_site.get_model_admin(Tool))
    return [path("import-openapi/", admin_site.admin_view(page), name="tools_tool_import_openapi")]


def _rows(api: Api, chosen: frozenset[int]) -> list[Row]:
    taken = taken_names(operation.name for operation in api.operations)
    return [
        Row(number, operation, operation.problem or _taken(operation, taken), number in chosen)
        for number, operation in enumerate(api.operations)
    ]


def _taken(operation: Operation, taken: frozenset[str]) -> str:
    return (
        "There is a tool of this name already, or a proposal for one: give a prefix." if operation.name in taken else ""
    )


def _numbers(texts: list[str]) -> frozenset[int]:
    return frozenset(int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) < 6)


def _options(form: OptionsForm) -> list[tuple[str, str]]:
    """What the options' form says, for the hidden fields of the next page."""
    said = {name: form.cleaned_data[name] for name in form.fields}
    return [(name, "on" if value is True else str(value)) for name, value in said.items() if value is not False]


def _placed(scheme: Scheme) -> str:
    placement, parameter = scheme.placement["placement"], scheme.placement.get("parameter", "")
    return f"Sent as {placement} {parameter}".strip()


def _shown(done: list[Imported]) -> list[dict[str, Any]]:
    """What came of each, with the way to it."""
    names = [item.operation.name for item in done if item.result is not Result.FAILED]
    tools = {tool.name: tool for tool in Tool.objects.filter(name__in=names)}
    waiting = ChangeRequest.objects.filter(kind="Tool", name__in=names, status=ChangeRequest.Status.PENDING)
    links = {request.name: proposal_link(request, "See the proposal") for request in waiting}
    return [
        {
            "operation": item.operation,
            "badge": badge(item.result, _COLOURS[item.result]),
            "message": item.message,
            "tool": tools.get(item.operation.name) if item.result is Result.CREATED else None,
            "proposal": links.get(item.operation.name, "") if item.result is Result.PROPOSED else "",
        }
        for item in done
    ]
