"""The versions of a tool in the console: listed, compared with each other, and served again."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.functional import cached_property

from audit.console_actor import request_actor
from tools.admin.forms import GoBackForm
from tools.admin.tool_pages import CHANGE, ToolPage, audit_link, tell_change, tell_problem, to_page, who
from tools.line_differences import field_differences
from tools.models import Tool, ToolVersion
from tools.tool_changes import go_back
from tools.versions import SEEN_FIELDS, Definition

VERSIONS_A_PAGE = 50


class VersionsPage(ToolPage):
    """All versions, newest first; two of them are chosen to be compared."""

    name = "versions"
    title = "Versions"
    template_name = "admin/tools/tool/versions.html"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        versions = ToolVersion.objects.filter(tool=self.tool).defer("input_schema", "output_schema", "handler")
        page = Paginator(versions.order_by("-number"), VERSIONS_A_PAGE).get_page(self.request.GET.get("p"))
        served = self.tool.current_version
        return {
            **super().get_context_data(**options),
            "page": page,
            "rows": [{"version": version, "who": who(version.created_by)} for version in page],
            "older": served.number - 1 if served else 0,
            "newer": served.number if served else 0,
            "trail": audit_link(f"target:tool/{self.tool.name}", "Everything recorded about it"),
        }


class ComparePage(ToolPage):
    """Two versions beside each other, field by field; from here the older one can be served again."""

    name = "versions"
    title = "Compare versions"
    template_name = "admin/tools/tool/compare.html"

    @cached_property
    def versions(self) -> tuple[ToolVersion, ToolVersion]:
        """The two of the address, the older first; one that is not given is the served one."""
        numbers = sorted(self._number(name) for name in ("a", "b"))
        found = {version.number: version for version in ToolVersion.objects.filter(tool=self.tool, number__in=numbers)}
        if not all(number in found for number in numbers):
            raise Http404(f"There is no such version of {self.tool.name}.")
        return found[numbers[0]], found[numbers[1]]

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        older, newer = self.versions
        changes = field_differences(Definition.of(older).as_dict(), Definition.of(newer).as_dict())
        served = self.tool.current_version
        return {
            **super().get_context_data(**options),
            "older": older,
            "newer": newer,
            "made": [(version, who(version.created_by)) for version in (older, newer)],
            "changes": [(change, change.name in SEEN_FIELDS) for change in changes],
            "offered": [
                version for version in dict.fromkeys((older, newer)) if served is None or version.pk != served.pk
            ],
            "form": options.get("form") or GoBackForm(),
        }

    def post(self, request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
        """Serve one of the two again."""
        if not request.user.has_perm(CHANGE):
            raise PermissionDenied
        form = GoBackForm(request.POST)
        if not form.is_valid() or form.cleaned_data["number"] not in {version.number for version in self.versions}:
            return self.render_to_response(self.get_context_data(form=form))
        carry_out_go_back(request, self.tool, form.cleaned_data["number"], form.cleaned_data["note"])
        return to_page(self.tool, "versions")

    def _number(self, name: str) -> int:
        given = self.request.GET.get(name, "")
        if given.isascii() and given.isdigit() and len(given) < 10:
            return int(given)
        if given or self.tool.current_version is None:
            raise Http404("A version has a number.")
        return self.tool.current_version.number


def carry_out_go_back(request: HttpRequest, tool: Tool, number: int, note: str) -> None:
    """Serve version `number` again, or propose it, and say which."""
    try:
        proposal = go_back(tool.name, number, by=request_actor(request), reason=note)
    except ValidationError as error:
        tell_problem(request, error, f"Version {number} can no longer be used: ")
    else:
        tell_change(request, proposal, f"What version {number} said is served again.")
